"""The vendors' official clients, unchanged but for the base URL and the key, each in a process of its own.

What each of them does is in clients/: run, create, get, wait, cancel, list, stream, a local file, a picture by http.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caller import ROOT, Api, png
from PIL import Image
from receiver import Receiver

from tools import clients
from tools.server import Server

SCRIPTS = Path(__file__).with_name("clients")
PYTHON = {"replicate_1": ("replicate", "1.0.7"), "replicate_2": ("replicate", "2.0.0b4")}
PYTHON |= {"wavespeed_2": ("wavespeed", "2.0.5")}


@pytest.fixture(scope="module")
def web() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def told(name: str, server: Server, folder: Path, web: Receiver, **environ: str) -> dict[str, Any]:
    """What a script of clients/ says about its run."""
    picture = folder / "picture.png"
    picture.write_bytes(png(64, 64))
    given = {"KEY": "anything", "PYTHONDONTWRITEBYTECODE": "1", **environ}
    if name.endswith(".mjs"):
        if shutil.which("node") is None:
            pytest.skip("Node is not installed; the JavaScript clients need it.")
        command, given["CLIENTS"] = ["node", str(SCRIPTS / name)], str(clients.ensure_npm())
    else:
        command = [sys.executable, str(SCRIPTS / f"{name}.py")]
        given["PYTHONPATH"] = str(clients.ensure_python(*PYTHON[name]))
    command += [server.url, str(picture), f"{web.url}/picture.png"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **given}, timeout=540)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check_replicate(said: dict[str, Any]) -> None:
    """What all of Replicate's clients do alike."""
    assert said["run"] > 100, "the picture itself, as a file"
    assert (said["create"], said["wait"], said["get"]) in [
        (status, "succeeded", "succeeded") for status in ("starting", "processing", "succeeded")
    ]
    assert said["cancel"] == "canceled"
    assert said["list"] is True
    assert said["file"] == {"mine": "yes"} and said["files"] is True and said["deleted"] is True
    assert said["model"] is True and said["versions"] == 1 and said["secret"] is True
    assert said["refused"] == [400, True]


def test_replicate_python_1(server: Server, api: Api, tmp_path: Path, web: Receiver) -> None:
    said = told("replicate_1", server, tmp_path, web)
    check_replicate(said)
    assert said["version"] == "1.0.7" and said["run_path"] == 1
    assert min(said["run_version"], said["async_run"]) > 100
    assert said["stream"] == ["done", "logs", "output"]
    assert [api.picture(link).size for link in said["streamed"]] == [(768, 320)]
    assert said["account"] == "user" and said["deployment"] == [404, True]


def test_replicate_python_2(server: Server, api: Api, tmp_path: Path, web: Receiver) -> None:
    said = told("replicate_2", server, tmp_path, web)
    check_replicate(said)
    assert said["version"] == "2.0.0b4"
    assert said["run_version"] > 100 and min(said["use"]) > 100


def test_replicate_javascript(server: Server, api: Api, tmp_path: Path, web: Receiver) -> None:
    said = told("replicate.mjs", server, tmp_path, web)
    check_replicate(said)
    assert said["runVersion"] > 100 and said["streamed"] > 100
    assert api.picture(said["runPolling"][0]).size == (768, 320)
    assert said["stream"] == ["logs", "output", "done"]


@pytest.mark.parametrize("name", ["wavespeed_2", "wavespeed.mjs"])
def test_wavespeed(server: Server, api: Api, tmp_path: Path, web: Receiver, name: str) -> None:
    said = told(name, server, tmp_path, web)
    for link in (*said["run"], *said["sync"]):
        assert api.picture(link).size == (256, 256)
    assert (said.get("no_throw") or said["noThrow"]) == [1, "completed"] and said["get"] == "completed"
    assert "HTTP 400" in said["refused"] and "num_images" in said["refused"]


def test_the_locked_versions_are_those_of_the_readme() -> None:
    packages = json.loads((SCRIPTS / "package-lock.json").read_text("utf-8"))["packages"]
    readme = (ROOT / "api" / "README.md").read_text("utf-8")
    for name, version in [("replicate", "1.4.0"), ("wavespeed", "0.3.2")]:
        assert packages[f"node_modules/{name}"]["version"] == version and packages[f"node_modules/{name}"]["integrity"]
        assert f"{name} {version} (npm)" in readme
    assert all(f"{package} {version} (PyPI)" in readme for package, version in PYTHON.values())


def test_outputs_of_run_are_links_for_everybody_else(api: Api, web: Receiver) -> None:
    """Data URIs are for the official clients' run over plain http; who reads the answer by hand wants links."""
    request = {"redux_image": f"{web.url}/picture.png", "megapixels": "0.25", "num_inference_steps": 1}
    body = {"input": {**request, "aspect_ratio": "21:9", "disable_safety_checker": True}}
    path = "/v1/models/black-forest-labs/flux-redux-dev/predictions"
    agent = {"User-Agent": "replicate-python/1.0.7"}
    wait = {"Prefer": "wait"}
    (link,) = api.post(path, body, headers=wait).json["output"]
    assert link.startswith(f"{api.url}/redux-api/outputs/")
    made = api.post(path, body, headers=agent).json
    (link,) = api.finish(made["urls"]["get"])["output"]
    assert link.startswith(f"{api.url}/redux-api/outputs/")
    answer = api.post(path, body, headers={**agent, **wait}).json
    (uri,) = answer["output"]
    content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(content)).size == (768, 320)
    assert api.get(answer["urls"]["get"]).json["output"] == [uri]
