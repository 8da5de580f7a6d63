"""Servers started with other options of ComfyUI: the same workflow gives nearly the same picture.

--lowvram, --novram and --gpu-only do not go with --cpu; tests/host/test_memory.py has what they do.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools import checkpoints, host, workflow
from tools.client import Client
from tools.server import Server

ROOT = Path(__file__).resolve().parents[2]
VARIATION = ROOT / "workflows" / "api" / "image_variation.json"


def pixels(client: Client, graph: workflow.Workflow) -> np.ndarray[Any, Any]:
    image = client.run(graph).images[0]
    return np.asarray(Image.open(io.BytesIO(client.fetch(image))).convert("RGB"), dtype=np.float32) / 255


@pytest.mark.parametrize(
    ("arguments", "apart"),
    [
        # fp8 keeps 3 bits of a weight: the picture is near, and not the same
        (["--fp8_e4m3fn-text-enc"], 0.1),
        (["--fp32-text-enc", "--cache-none", "--disable-smart-memory", "--use-split-cross-attention"], 0.01),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options(
    client: Client,
    small: Callable[..., workflow.Workflow],
    tmp_path: Path,
    arguments: list[str],
    apart: float,
) -> None:
    graph = workflow.set_inputs(small(VARIATION, seed=61), "ReduxApply", strength=0.5)
    expected = pixels(client, graph)
    checkpoints.write_checkpoints(tmp_path / "models")
    with Server(host.ensure(os.environ.get("REDUX_HOST") or None), tmp_path, arguments=arguments) as other:
        there = Client(other.url)
        there.upload(ROOT / "workflows" / "input" / "cat.jpg")
        found = pixels(there, graph)
        again = pixels(there, workflow.set_seed(graph, 62))
    assert np.abs(found - expected).mean() < apart
    assert np.abs(again - found).mean() > 1e-3
