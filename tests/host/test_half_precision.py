"""FLUX in bf16 and fp16, as on a GPU: a weighted sampling is as near to the fp32 one as ComfyUI's own unweighted one.

Shapes: as in redux_scene.py.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management as memory
import pytest
import torch
from redux_scene import relative

MORE = 1.5  # how much larger the error may be


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def half(scene: Any, request: pytest.FixtureRequest) -> Any:
    """The scene's FLUX, kept and computed in half precision on any device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "should_use_bf16", lambda *_, **__: request.param == torch.bfloat16)
        patch.setattr(memory, "should_use_fp16", lambda *_, **__: request.param == torch.float16)
        model = scene.comfy.load_flux()
    assert model.model.get_dtype_inference() == request.param
    return model


def conditionings(scene: Any) -> dict[str, list]:
    half_mask = torch.zeros(1, 16, 16)
    half_mask[..., :8] = 1
    several = scene.text
    for seed, strength in enumerate((0.1, 0.4, 2.0, 0.7, 0.25, 1.5)):
        several = scene.apply(several, scene.tokens(seed, rows=2), strength=strength)
    masked = [[scene.text[0][0], {**scene.text[0][1], "attention_mask": torch.zeros(1, 72, 72)}]]
    masked[0][1]["attention_mask"][:, 8:, :4] = -1.0
    masked[0][1]["attention_mask_img_shape"] = (8, 8)
    return {
        "weak": scene.apply(scene.text, scene.tokens(), strength=0.2),
        "strong": scene.apply(scene.text, scene.tokens(), strength=4.0),
        "region": scene.apply(scene.text, scene.tokens(), strength=0.6, region=half_mask),
        "six": several,
        "mask": scene.apply(masked, scene.tokens(), strength=0.2),
    }


@pytest.mark.parametrize("kind", ["weak", "strong", "region", "six", "mask"])
def test_the_error_is_that_of_the_dtype(scene: Any, half: Any, kind: str) -> None:
    conditioning = conditionings(scene)[kind]
    plain = scene.plain(scene.tokens())
    usual = relative(scene.sample(plain, half), scene.sample(plain))
    error = relative(scene.sample(conditioning, half), scene.sample(conditioning))
    assert 0 < error < MORE * usual
