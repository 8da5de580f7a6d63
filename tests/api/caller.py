"""What the tests of the endpoints share: a caller, a server with the endpoints on, small requests.

`load("fetch")` gives a module of api/ without ComfyUI.
"""

from __future__ import annotations

import base64
import http.client
import importlib
import io
import json
import sys
import time
import types
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

V2, V3 = "/api/v2/wavespeed-ai/flux-redux-dev", "/api/v3/wavespeed-ai/flux-redux-dev"
REPLICATE = "/v1/models/black-forest-labs/flux-redux-dev/predictions"
DONE = ("completed", "succeeded", "failed", "canceled")
WAITING = ("created", "starting")

if "redux_control" not in sys.modules:  # the pack's root would want ComfyUI; its parts are found without it
    package = types.ModuleType("redux_control")
    package.__path__ = [str(ROOT)]
    sys.modules["redux_control"] = package


def load(name: str) -> Any:
    return importlib.import_module(f"redux_control.api.{name}")


def png(width: int = 48, height: int = 32, color: tuple[int, ...] = (200, 90, 30), **more: Any) -> bytes:
    return encoded(Image.new("RGB" if len(color) == 3 else "RGBA", (width, height), color), "PNG", **more)


def encoded(picture: Image.Image, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """A caller of one server."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.url, self.headers = url, dict(headers or {})

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request on a connection of its own. A `body` becomes JSON, `raw` is sent as it is."""
        place = urllib.parse.urlsplit(path if path.startswith("http") else self.url + path)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        types_ = {"Content-Type": "application/json"} if data is not None else {}
        try:
            target = place.path + (f"?{place.query}" if place.query else "")
            connection.request(method, target, data, {**types_, **self.headers, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers.items()), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> Answer:
        return self.request("POST", path, body, **more)

    def finish(self, url: str, seconds: float = 120) -> dict[str, Any]:
        """The job behind a link once it is done."""
        end = time.monotonic() + seconds
        while True:
            answer = self.get(url).json
            job = answer.get("data", answer)
            if job["status"] in DONE:
                return dict(job)
            assert time.monotonic() < end, f"still {job['status']} after {seconds} s"
            time.sleep(0.1)

    def status_of(self, url: str) -> str:
        """How the job behind a link is now, in its vendor's words."""
        answer = self.get(url).json
        return str(answer.get("data", answer)["status"])

    def begin(self, url: str, seconds: float = 120) -> str:
        """The status of the job behind a link, once it no longer waits."""
        end = time.monotonic() + seconds
        while (status := self.status_of(url)) in WAITING:
            assert time.monotonic() < end, f"still {status} after {seconds} s"
            time.sleep(0.05)
        return status

    def rest(self, seconds: float = 120) -> None:
        """Wait until no job of before waits or runs."""
        for job in self.get("/v1/predictions").json["results"]:
            self.finish(f"/v1/predictions/{job['id']}", seconds)
        end = time.monotonic() + seconds
        while (queue := self.get("/queue")).status == 200 and any(queue.json.values()):  # a gateway has none
            assert time.monotonic() < end, queue.json
            time.sleep(0.1)

    def picture(self, url: str) -> Image.Image:
        answer = self.get(url)
        assert answer.status == 200, answer
        picture = Image.open(io.BytesIO(answer.body))
        picture.load()
        return picture


def wait_for_none(folder: Path, seconds: float = 120) -> None:
    """Until a folder is empty: what a job needed is removed just after its end is told."""
    end = time.monotonic() + seconds
    while left := list(folder.iterdir()):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def wave(**more: Any) -> dict[str, Any]:
    """A small request to version 3."""
    small = {"image": base64_of(png()), "size": "256*256", "num_inference_steps": 1, "enable_safety_checker": False}
    return {**small, **more}


def prediction(**more: Any) -> dict[str, Any]:
    """A small request to Replicate's endpoint."""
    small: dict[str, Any] = {"redux_image": f"data:image/png;base64,{base64_of(png())}", "aspect_ratio": "21:9"}
    small |= {"megapixels": "0.25", "num_inference_steps": 1, "disable_safety_checker": True}
    return {"input": {**small, **more}}
