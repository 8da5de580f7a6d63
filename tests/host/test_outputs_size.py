"""FLUX Image Size: the table of the help page, ComfyUI's own latent, and sides that are multiples of 16."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

PAGE = Path(__file__).parents[2] / "nodes" / "web" / "docs" / "ReduxSize.md"
REPLICATE = {"1:1": (1024, 1024), "16:9": (1344, 768), "21:9": (1536, 640), "3:2": (1216, 832), "2:3": (832, 1216)}
REPLICATE |= {"4:5": (896, 1088), "5:4": (1088, 896), "3:4": (896, 1152), "4:3": (1152, 896)}
REPLICATE |= {"9:16": (768, 1344), "9:21": (640, 1536)}


def execute(redux_nodes: Any, megapixels: float = 1.0, batch: int = 1, **aspect: Any) -> tuple:
    return redux_nodes["ReduxSize"].execute(aspect, megapixels, batch).args


@pytest.mark.parametrize("ratio", REPLICATE)
def test_sizes_are_those_of_the_hosted_model(redux_nodes: Any, ratio: str) -> None:
    width, height = REPLICATE[ratio]
    assert execute(redux_nodes, aspect_ratio=ratio)[1:] == (width, height)
    assert execute(redux_nodes, 0.25, aspect_ratio=ratio)[1:] == (width // 2, height // 2)


def test_table_of_the_help_page_is_true(redux_nodes: Any) -> None:
    rows = re.findall(r"^\| (\d+:\d+) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [ratio for ratio, _ in rows] == list(REPLICATE)
    for ratio, cells in rows:
        _, width, height = execute(redux_nodes, 1.0, aspect_ratio=ratio)
        assert cells == f"{width} x {height}"
        assert execute(redux_nodes, 0.25, aspect_ratio=ratio)[1:] == (width // 2, height // 2)


def test_latent_is_cores(comfy: Any, redux_nodes: Any) -> None:
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage

    latent, width, height = execute(redux_nodes, 0.25, 3, aspect_ratio="3:2")
    core = EmptySD3LatentImage.execute(width, height, 3).args[0]
    assert latent.keys() == core.keys()
    assert torch.equal(latent["samples"], core["samples"])
    assert latent["samples"].dtype == core["samples"].dtype


def test_latent_samples_to_the_size(comfy: Any, redux_nodes: Any) -> None:
    latent, width, height = execute(redux_nodes, aspect_ratio="custom", width=144, height=96)
    samples = comfy.sample(comfy.load_flux(), comfy.conditioning(), latent=latent, steps=1)
    picture = comfy.nodes.VAEDecode().decode(comfy.load_vae(), {"samples": samples})[0]
    assert (width, height) == (144, 96)
    assert picture.shape == (1, 96, 144, 3)


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 9000), height=st.integers(1, 9000), megapixels=st.floats(0.01, 16))
def test_as_the_reference(redux_nodes: Any, width: int, height: int, megapixels: float) -> None:
    image = torch.zeros(1, 1, 1, 3).expand(1, height, width, 3)
    _, w, h = execute(redux_nodes, megapixels, batch=1, aspect_ratio="as the reference", image=image)
    assert w % 16 == h % 16 == 0 and min(w, h) >= 16 and max(w, h) <= 8192
    if 0.25 < width / height < 4 and megapixels >= 0.25:
        assert w / h == pytest.approx(width / height, rel=16 / min(w, h))
        assert w * h == pytest.approx(megapixels * 1024**2, rel=32 / min(w, h))


def test_faults_are_named(redux_nodes: Any) -> None:
    with pytest.raises(ValueError, match="needs an image"):
        execute(redux_nodes, aspect_ratio="as the reference")
    with pytest.raises(ValueError, match="'7:3' is unknown"):
        execute(redux_nodes, aspect_ratio="7:3")
    with pytest.raises(ValueError, match="The aspect ratio is missing; use"):
        redux_nodes["ReduxSize"].execute(None, 1.0, 1)
    for megapixels in (float("nan"), float("inf"), 0.0):
        for aspect in ({"aspect_ratio": "1:1"}, {"aspect_ratio": "as the reference", "image": torch.zeros(1, 8, 8, 3)}):
            with pytest.raises(ValueError, match=r"The picture has (nan|inf|0) megapixels; a number above 0"):
                execute(redux_nodes, megapixels, **aspect)
