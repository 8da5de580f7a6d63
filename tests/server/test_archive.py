"""The archive that would be published, unpacked in a fresh ComfyUI and run there, with nothing else of the checkout."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import host, publish, workflow
from tools.client import Client
from tools.server import Server


def test_the_published_archive_paints(tmp_path: Path) -> None:
    pytest.importorskip("comfy_cli")
    publish.pack(tmp_path / "node.zip")
    base = tmp_path / "comfyui"
    pack = base / "custom_nodes" / "redux-control"
    zipfile.ZipFile(tmp_path / "node.zip").extractall(pack)
    (base / "models").mkdir()
    subprocess.run([sys.executable, "-I", str(pack / "miniature" / "install.py"), str(base / "models")], check=True)
    with Server(host.ensure(os.environ.get("REDUX_HOST") or None), base) as server:
        assert not pack.is_symlink()
        client = Client(server.url)
        graph = workflow.read(pack / "workflows" / "api" / "image_variation.json")
        names = {path.parent.name: path.name for path in (base / "models").glob("*/redux-mini-*")}
        graph = workflow.shrink(workflow.use_models(graph, names), 128, 4)
        photo = client.upload(pack / "workflows" / "input" / "cat.jpg")
        result = client.run(workflow.set_inputs(graph, "LoadImage", image=photo))
        picture = Image.open(io.BytesIO(client.fetch(result.images[0])))
        assert picture.size == (128, 128) and np.asarray(picture).std() > 5
        with urllib.request.urlopen(f"{server.url}/workflow_templates", timeout=120) as answer:
            assert b"redux-control" in answer.read()
        with urllib.request.urlopen(f"{server.url}/extensions/redux-control/docs/ReduxApply.md", timeout=120) as answer:
            assert b"strength" in answer.read()
        fallen = server.log.read_text("utf-8", "replace").split("Traceback")[1:]  # older hosts have some of their own
        assert not [trace for trace in fallen if "redux-control" in trace.partition("\n\n")[0]]
