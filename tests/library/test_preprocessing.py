"""`stretch` gives the pixel values of transformers' and diffusers' image processing.

What remains: Pillow computes with fixed-point weights, we with floats. A number that lies within 0.002 of the middle
between two 8-bit levels may be rounded to the other one: at most 4 in 1000 values differ (where a ratio of 2 : 1 makes
exact halves; 1 in 10,000 otherwise), by one level. With one
rounding at the end instead of Pillow's two (across, then down) a fifth of all values would differ, and next to edges,
where the first pass clips its overshoot, by up to 12 levels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxPriorReduxPipeline
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip import SiglipImageProcessorPil

import redux
from redux.image import FITS
from redux.pictures import read_picture

LEVEL = 1 / 255


@pytest.mark.parametrize("size", [(384, 384), (512, 768), (1024, 1024), (200, 300), (100, 1000), (31, 57)], ids=str)
@pytest.mark.parametrize("side", [384, 512])
def test_stretch_is_transformers_image_processor(
    photo: Callable[..., Tensor], size: tuple[int, int], side: int
) -> None:
    picture_1YXC = photo(*size).mul(255).round().to(torch.uint8)
    process = SiglipImageProcessorPil(size={"height": side, "width": side})
    expected = process(Image.fromarray(picture_1YXC[0].numpy()), return_tensors="pt")["pixel_values"]
    (view,) = FITS["stretch"](read_picture(picture_1YXC), redux.SiglipConfig(image_size=side))
    difference = (view.pixels_BCST - expected).abs() / 2  # of a range of -1..1, as a share of 0..1
    assert difference.max() < 1.01 * LEVEL
    assert difference.mean() < 0.01 * LEVEL
    assert (difference > 1e-4).float().mean() < 0.005


def test_from_picture_to_tokens_as_diffusers_does(photo: Callable[..., Tensor], tmp_path: Path) -> None:
    """FluxPriorReduxPipeline, its own image processor included, on a Pillow picture; then its folder through us."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=112, patch_size=14
    )
    prior = FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(config).eval(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 112, "width": 112}),
        image_embedder=ReduxImageEncoder(redux_dim=64, txt_in_features=48).eval(),
    )
    picture = Image.fromarray(photo(240, 320)[0].mul(255).round().byte().numpy())
    with torch.no_grad():
        latents = prior.encode_image(picture, "cpu", 1)
        expected = prior.image_embedder(latents).image_embeds
    prior.save_pretrained(tmp_path)
    model = redux.ReduxModel.load(tmp_path, tmp_path, dtype=torch.float32)
    found = model.encode(picture).tokens
    assert (found - expected).norm() / expected.norm() < 1e-3
