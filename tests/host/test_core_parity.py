"""Our two nodes beside ComfyUI's CLIP Vision Encode and Apply Style Model, on the same weights.

What is left between them, each shown here: ComfyUI's tower has norms with torch's eps of 1e-5 where SigLIP was trained
with 1e-6; ComfyUI rounds a resized picture to 8 bits once, Pillow and we after each direction; and where ComfyUI crops,
it resizes first and cuts whole pixels afterwards, so that its square lies up to half a pixel beside the middle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import core_redux
import numpy as np
import pytest
import torch
from PIL import Image
from redux_scene import relative

PHOTO = Path(__file__).parents[2] / "workflows" / "input" / "cat.jpg"


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """[1, Y, X, 3]"""
    return torch.from_numpy(np.asarray(Image.open(PHOTO).convert("RGB"), dtype=np.float32) / 255)[None]


@pytest.fixture
def model(comfy: Any, redux_nodes: Any) -> Any:
    return redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "fp32").args[0]


def ours(redux_nodes: Any, model: Any, image: torch.Tensor, fit: str = "stretch") -> torch.Tensor:
    return redux_nodes["ReduxEncode"].execute(model, image, {"fit": fit}).args[0].tokens


def cores(comfy: Any, clip_vision: Any, image: torch.Tensor, crop: str = "none") -> torch.Tensor:
    """The tokens that Apply Style Model appends to an empty conditioning, [1, B * N, D]."""
    output = comfy.nodes.CLIPVisionEncode().encode(clip_vision, image, crop)[0]
    empty = [[torch.zeros(1, 0, comfy.sizes.context), {}]]
    style = core_redux.style_model(comfy)
    return comfy.nodes.StyleModelApply().apply_stylemodel(empty, style, output, 1.0, "multiply")[0][0][0]


def test_of_one_eps_and_one_size_the_paths_are_equal(
    comfy: Any, redux_nodes: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(3, 112, 112, 3).mul(255).round() / 255
    expected = cores(comfy, core_redux.clip_vision(comfy, monkeypatch, core_redux.EPS), image)
    found = ours(redux_nodes, model, image)
    assert relative(found.flatten(0, 1)[None], expected) < 1e-5


def test_eps_is_what_is_left_of_the_tower(
    comfy: Any, redux_nodes: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(1, 112, 112, 3).mul(255).round() / 255
    shipped = relative(ours(redux_nodes, model, image), cores(comfy, core_redux.clip_vision(comfy, monkeypatch), image))
    assert 1e-6 < shipped < 1e-4


def test_a_photograph_differs_by_the_rounding_of_its_pixels(
    comfy: Any, redux_nodes: Any, model: Any, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.clip_model import clip_preprocess

    clip_vision = core_redux.clip_vision(comfy, monkeypatch, core_redux.EPS)
    assert relative(ours(redux_nodes, model, photo), cores(comfy, clip_vision, photo)) < 2e-2
    (view,) = model.model.views(photo, device="cpu")
    pixels = clip_preprocess(photo, size=112, mean=[0.5] * 3, std=[0.5] * 3, crop=False)
    levels = (view.pixels_BCST - pixels).abs() * 127.5
    assert float(levels.max()) < 1.01 and float(levels.mean()) < 0.5
    seen = view.pixels_BCST.movedim(1, -1) / 2 + 0.5  # our pixels through both towers
    assert relative(ours(redux_nodes, model, seen), cores(comfy, clip_vision, seen)) < 1e-5


def test_a_centre_crop_is_cores_but_for_half_a_pixel(
    comfy: Any, redux_nodes: Any, model: Any, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_vision = core_redux.clip_vision(comfy, monkeypatch, core_redux.EPS)
    crop, stretch = (ours(redux_nodes, model, photo, fit) for fit in ("crop", "stretch"))
    expected = cores(comfy, clip_vision, photo, "center")
    assert relative(crop, expected) < 5e-2 < 5 * relative(crop, expected) < relative(stretch, expected)


def test_a_picture_is_sampled_alike(
    comfy: Any, redux_nodes: Any, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through FLUX: our tokens stand before the text, ComfyUI's behind it, and FLUX knows no order of its text."""
    output = comfy.nodes.CLIPVisionEncode().encode(core_redux.clip_vision(comfy, monkeypatch), photo, "none")[0]
    style, text = core_redux.style_model(comfy), comfy.conditioning(seed=1)
    theirs = comfy.nodes.StyleModelApply().apply_stylemodel(text, style, output, 1.0, "multiply")[0]
    tokens = redux_nodes["ReduxFromClipVision"].execute(style, output).args[0]
    mine = redux_nodes["ReduxApply"].execute(text, tokens).args[0]
    flux = comfy.load_flux()
    assert relative(comfy.sample(flux, mine), comfy.sample(flux, theirs)) < 1e-5
    weak = comfy.nodes.StyleModelApply().apply_stylemodel(text, style, output, 0.3, "attn_bias")[0]
    mine = redux_nodes["ReduxApply"].execute(text, tokens, strength=0.3).args[0]
    assert relative(comfy.sample(flux, mine), comfy.sample(flux, weak)) < 2e-3  # ComfyUI's mask is fp16


def test_from_clip_vision_is_the_same_projector(
    comfy: Any, redux_nodes: Any, model: Any, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip_vision = core_redux.clip_vision(comfy, monkeypatch, core_redux.EPS)
    batch = torch.cat([photo, photo.flip(2)])
    (view,) = model.model.views(batch, device=model.patcher.load_device)
    seen = view.pixels_BCST.cpu().movedim(1, -1) / 2 + 0.5
    output = comfy.nodes.CLIPVisionEncode().encode(clip_vision, seen, "none")[0]
    before = output["last_hidden_state"].clone()
    tokens = redux_nodes["ReduxFromClipVision"].execute(core_redux.style_model(comfy), output).args[0]
    assert relative(tokens.tokens, ours(redux_nodes, model, batch)) < 1e-5
    assert (tokens.num_pictures, tokens.grid, tokens.full_count) == (2, (8, 8), 64)
    assert tokens.tokens.device.type == "cpu" and torch.equal(output["last_hidden_state"], before)


def test_from_clip_vision_reads_many_pictures_in_pieces(comfy: Any, redux_nodes: Any) -> None:
    hidden_BNV = torch.randn(37, 64, comfy.sizes.vision_hidden)
    style = core_redux.style_model(comfy)
    tokens = redux_nodes["ReduxFromClipVision"].execute(style, {"last_hidden_state": hidden_BNV}).args[0]
    assert relative(tokens.tokens, style.model(hidden_BNV)) < 1e-5


def test_from_clip_vision_leaves_no_model_behind(comfy: Any, redux_nodes: Any) -> None:
    import gc

    import comfy.model_management as memory

    hidden_BNV = torch.randn(1, 64, comfy.sizes.vision_hidden)
    for _ in range(3):
        redux_nodes["ReduxFromClipVision"].execute(core_redux.style_model(comfy), {"last_hidden_state": hidden_BNV})
    gc.collect()
    memory.cleanup_models_gc()
    loaded = [entry.model.model for entry in memory.current_loaded_models if entry.model is not None]
    assert not any(type(entry).__name__ == "ReduxProjector" for entry in loaded)


WRONG = {
    "T2I style adapter": (core_redux.t2i_style_model, (1, 64, 128), "is not a Redux projector; load flux1-redux-dev"),
    "CLIP ViT-L": (None, (1, 257, 1024), "gave 257 tokens of width 1024; the projector reads a square .* of width 128"),
    "class token": (None, (1, 65, 128), "gave 65 tokens of width 128"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_redux_is_one_sentence(comfy: Any, redux_nodes: Any, kind: str) -> None:
    make, shape, words = WRONG[kind]
    style = make() if make else core_redux.style_model(comfy)
    with pytest.raises(ValueError, match=words) as caught:
        redux_nodes["ReduxFromClipVision"].execute(style, {"last_hidden_state": torch.zeros(shape)})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
