"""The endpoints: parts of them alone, and a real headless ComfyUI with them switched on and small models behind.

Run this tier alone (`pytest tests/api`). The version of ComfyUI is that of REDUX_HOST, or else the newest known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from caller import Api  # noqa: E402

from tools.api_server import make_server  # noqa: E402
from tools.server import Server  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("comfyui")
    # "127.0.0.1" is where the tests' own picture server is; any other name of this machine stays refused.
    limits = {"max_body_mb": 4, "max_image_mb": 2, "max_megapixels": 4}
    made = make_server(folder, trusted_hosts=["127.0.0.1"], embed_workflow=True, **limits)
    made.arguments = ["--enable-cors-header", "*"]  # so that ComfyUI's own guard against pages is off
    with made as running:
        yield running


@pytest.fixture
def api(server: Server) -> Api:
    return Api(server.url)
