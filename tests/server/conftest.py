"""One real, headless ComfyUI for the whole tier, reached over HTTP and websocket as any client reaches it.

The version is that of REDUX_HOST, or else the user's own ComfyUI, or else the newest known; the version of the page is
that of REDUX_PAGE, or else the one that this ComfyUI asks for. Its models are the small
random-weight ones of tools/checkpoints.py, beside broken files that tests ask for by name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from safetensors.torch import save_file  # noqa: E402

from tools import checkpoints, host, workflow  # noqa: E402
from tools.client import Client  # noqa: E402
from tools.server import Server  # noqa: E402

SIDE, STEPS = 128, 3


@pytest.fixture(scope="session")
def page_arguments() -> list[str]:
    """ComfyUI's arguments for the page of REDUX_PAGE, or else the host's own."""
    version = os.environ.get("REDUX_PAGE")
    return ["--front-end-root", str(host.ensure_page(version))] if version else []


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, page_arguments: list[str]) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    checkpoints.write_checkpoints(folder / "models")
    _write_broken(folder / "models")
    with Server(host.ensure(os.environ.get("REDUX_HOST") or None), folder, arguments=page_arguments) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Settings that the test, or the page in it, has made are gone afterwards: an open panel moves the canvas."""
    yield Client(server.url)
    for path in server.folder.glob("user/*/comfy.settings.json"):
        path.unlink()


@pytest.fixture(scope="session")
def photo(server: Server) -> str:
    """The name of the photograph in ComfyUI's input folder."""
    return Client(server.url).upload(ROOT / "workflows" / "input" / "cat.jpg")


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict[str, Any]:
    return Client(server.url).object_info()


@pytest.fixture
def small(photo: str) -> Callable[..., workflow.Workflow]:
    """small(path, seed=1): a workflow of the pack, set to the small models, the photograph and 128 x 128 pixels."""

    def make(path: Path, seed: int = 1) -> workflow.Workflow:
        graph = workflow.use_models(workflow.read(path), vars(checkpoints.NAMES))
        graph = workflow.set_inputs(workflow.shrink(graph, SIDE, STEPS), "LoadImage", image=photo)
        return workflow.set_seed(graph, seed)

    return make


def _write_broken(models: Path) -> None:
    """Files that are not what their folder says."""
    good = (models / "clip_vision" / checkpoints.NAMES.clip_vision).read_bytes()
    (models / "clip_vision" / "truncated.safetensors").write_bytes(good[: len(good) // 2])
    (models / "clip_vision" / "empty.safetensors").write_bytes(b"")
    save_file(checkpoints.flux_weights(), models / "clip_vision" / "flux.safetensors")
    save_file(checkpoints.siglip_weights(), models / "clip_vision" / "no-metadata.safetensors")
    other = checkpoints.Sizes(vision_hidden=256)
    save_file(
        checkpoints.redux_weights(other),
        models / "style_models" / "other-width.safetensors",
        metadata=checkpoints.redux_metadata(other),
    )
