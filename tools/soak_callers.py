"""Callers of the endpoints who submit and cancel without end, and remember what they were promised."""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from typing import Any

from PIL import Image

V3 = "/api/v3/wavespeed-ai/flux-redux-dev"
REPLICATE = "/v1/models/black-forest-labs/flux-redux-dev/predictions"
DONE = ("completed", "succeeded", "failed", "canceled")
CANCELED_SHARE = 0.15
UNREACHABLE = 0


class Callers:
    """Threads of callers; `url` tells where the server is now."""

    def __init__(self, url: Callable[[], str], count: int) -> None:
        self.url, self.ending = url, threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(seed,), daemon=True) for seed in range(count)]
        self.mutex = threading.Lock()
        self.accepted: dict[str, str] = {}
        self.completed: list[str] = []
        self.answers: Counter[int] = Counter()
        self.ends: Counter[str] = Counter()
        self.slowest = 0.0

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(120)

    def settle(self, seconds: float) -> list[str]:
        """Wait for the end of every job that was accepted, so many seconds for the next one; what is wrong with any."""
        problems = []
        for id, path in self.accepted.items():
            end = time.monotonic() + seconds
            status, job = self._look(path)
            while status != 404 and job.get("status") not in DONE and time.monotonic() < end:
                time.sleep(0.2)
                status, job = self._look(path)
            if job.get("status") not in DONE:
                problems.append(f"{id} is lost or for ever {job.get('status', status)}")
                continue
            problems += self._check(id, job)
        return problems

    def rows(self) -> list[tuple[str, str]]:
        answers = ", ".join(f"{status or 'none'}: {count}" for status, count in sorted(self.answers.items()))
        rows = [("jobs accepted", str(len(self.accepted))), ("answers to submits by status", answers)]
        rows += [(f"jobs {name}", str(count)) for name, count in sorted(self.ends.items())]
        return [*rows, ("slowest answer to a submit, s", f"{self.slowest:.1f}")]

    def _call(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.ending.wait(draw.uniform(0.05, 1.0)):
            self._submit(draw)

    def _submit(self, draw: random.Random) -> None:
        image, seed = _picture(draw), draw.randrange(2**32)
        start = time.monotonic()
        if draw.random() < 0.7:
            small = {"size": "256*256", "num_inference_steps": 1, "enable_safety_checker": False, "seed": seed}
            status, answer = post(self.url(), V3, {"image": image, **small})
            job, path = answer.get("data") or {}, "/api/v3/predictions/{}/result"
        else:
            values = {"redux_image": image, "aspect_ratio": "21:9", "megapixels": "0.25", "seed": seed}
            values |= {"num_inference_steps": 1, "disable_safety_checker": True}
            status, job = post(self.url(), REPLICATE, {"input": values})
            path = "/v1/predictions/{}"
        with self.mutex:
            self.answers[status] += 1
            self.slowest = max(self.slowest, time.monotonic() - start)
            if status in (200, 201):
                self.accepted[job["id"]] = path.format(job["id"])
        if status == 201 and draw.random() < CANCELED_SHARE / 0.3:
            time.sleep(draw.uniform(0, 0.5))
            post(self.url(), f"/v1/predictions/{job['id']}/cancel", {})

    def _look(self, path: str) -> tuple[int, dict[str, Any]]:
        status, answer = ask(self.url(), "GET", path)
        return status, answer.get("data", answer)

    def _check(self, id: str, job: dict[str, Any]) -> list[str]:
        status = {"succeeded": "completed"}.get(job["status"], job["status"])
        with self.mutex:
            self.ends[status if status != "failed" else f"failed: {job['error'][:60]}"] += 1
        if status == "failed" and not job["error"]:
            return [f"{id} failed without a reason"]
        if status != "completed":
            return []
        self.completed.append(id)
        links = job.get("outputs") or job.get("output") or []
        if len(links) != 1:
            return [f"{id} has {len(links)} pictures"]
        place = urllib.parse.urlsplit(links[0])
        found = ask(self.url(), "GET", place.path, read=False)[0]
        return [] if found == 200 else [f"{id}: its picture answers {found}"]


def post(url: str, path: str, body: Any = None, raw: bytes | None = None) -> tuple[int, dict[str, Any]]:
    return ask(url, "POST", path, json.dumps(body).encode() if raw is None else raw)


def ask(url: str, method: str, path: str, data: bytes | None = None, read: bool = True) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer; UNREACHABLE where there is none."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    try:
        connection.request(method, path, data, {"Content-Type": "application/json"} if data is not None else {})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, dict(json.loads(content)) if read else {}
    except (OSError, http.client.HTTPException, ValueError):
        return UNREACHABLE, {}
    finally:
        connection.close()


def _picture(draw: random.Random) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), tuple(draw.randrange(256) for _ in range(3))).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
