"""A region is a bias of the attention logits: through a real sampler, against a dense bias made by brute force."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from redux_scene import make_bias, region_weights, relative

TEXT = 8


def halves(height: int = 128, width: int = 128) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


def grey(height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(3))


def dense_region(scene: Any, tokens: Any, weights: torch.Tensor, **options: Any) -> torch.Tensor:
    count = tokens.tokens.shape[1]
    length = count + weights.shape[-1]
    batch = len(weights) if weights.ndim == 2 else 1
    return scene.dense(make_bias(length, [(0, count, weights)], count, batch), tokens, **options)


@pytest.mark.parametrize(
    ("region", "size"),
    [
        (halves(), (128, 128)),
        (grey(), (128, 128)),
        (grey(37, 91), (128, 128)),  # no multiple of anything
        (grey(37, 91), (136, 120)),  # 17 x 15 latents: the model pads to 9 x 8 tokens
        (halves(8, 8), (104, 152)),
        (grey(3, 2), (128, 128)),  # coarser than the tokens
    ],
)
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_region_is_a_dense_bias(scene: Any, region: torch.Tensor, size: tuple[int, int], strength: float) -> None:
    tokens, latent = scene.tokens(), scene.comfy.empty_latent(*size)
    mine = scene.sample(scene.apply(scene.text, tokens, region=region, strength=strength), latent=latent)
    weights = strength * region_weights(region[0], TEXT, (size[0] // 8, size[1] // 8))
    assert relative(mine, dense_region(scene, tokens, weights, latent=latent)) < 1e-5
    assert relative(mine, scene.sample(scene.plain(tokens), latent=latent)) > 1e-2


def test_outside_the_region_the_change_is_that_of_the_dense_reference(scene: Any) -> None:
    tokens = scene.tokens()
    without = scene.sample(scene.text, steps=1)
    mine = scene.sample(scene.apply(scene.text, tokens, region=halves()), steps=1)
    reference = dense_region(scene, tokens, region_weights(halves()[0], TEXT, (16, 16)), steps=1)
    inside, outside = (slice(None), slice(None), slice(None), slice(0, 8)), (..., slice(8, 16))
    for part in (inside, outside):
        assert relative((mine - without)[part], (reference - without)[part]) < 1e-4
    assert (mine - without)[inside].norm() > 1.5 * (mine - without)[outside].norm() > 0


def test_a_region_of_ones_is_no_region_and_of_zeros_no_reference(scene: Any) -> None:
    tokens = scene.tokens()
    ones = scene.sample(scene.apply(scene.text, tokens, region=torch.ones(1, 50, 50), strength=0.5))
    assert relative(ones, scene.sample(scene.apply(scene.text, tokens, strength=0.5))) < 1e-6
    zeros = scene.sample(scene.apply(scene.text, tokens, region=torch.zeros(1, 50, 50)))
    assert torch.equal(zeros, scene.sample(scene.text))


def test_a_grey_region_is_a_strength(scene: Any) -> None:
    tokens = scene.tokens()
    region = scene.sample(scene.apply(scene.text, tokens, region=torch.full((1, 9, 9), 0.25), strength=2.0))
    assert relative(region, scene.sample(scene.apply(scene.text, tokens, strength=0.5))) < 1e-6


def test_one_mask_for_each_image(scene: Any) -> None:
    """Also where the last mask has nothing: its image is the one without a reference."""
    tokens, latent = scene.tokens(), scene.comfy.empty_latent(batch=3)
    masks = torch.cat((halves(), 1 - halves(), torch.zeros(1, 128, 128)))
    mine = scene.sample(scene.apply(scene.text, tokens, region=masks), latent=latent)
    weights = torch.stack([region_weights(mask, TEXT, (16, 16)) for mask in masks])
    assert relative(mine, dense_region(scene, tokens, weights, latent=latent)) < 1e-5
    assert relative(mine[2:], scene.sample(scene.text, latent=latent)[2:]) < 1e-5
    assert relative(mine[:2], scene.sample(scene.text, latent=latent)[:2]) > 1e-2


def test_masks_begin_again_where_images_are_more(scene: Any) -> None:
    tokens, latent = scene.tokens(), scene.comfy.empty_latent(batch=3)
    masks = torch.cat((halves(), 1 - halves()))
    two = scene.sample(scene.apply(scene.text, tokens, region=masks), latent=latent)
    three = scene.sample(scene.apply(scene.text, tokens, region=torch.cat((masks, masks[:1]))), latent=latent)
    assert relative(two, three) < 1e-6


def test_a_mask_without_a_batch_is_one_mask(scene: Any) -> None:
    tokens = scene.tokens()
    masks = (halves()[0], halves(), halves()[:, None])
    flat, batched, channel = (scene.sample(scene.apply(scene.text, tokens, region=mask)) for mask in masks)
    assert torch.equal(flat, batched) and torch.equal(channel, batched)


def test_the_mask_of_a_picture_without_alpha_is_no_region(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Load Image gives then; said on the node. Any other mask of zeros is what it was."""
    said: list[str] = []
    monkeypatch.setattr(scene.pack.nodes.host.mask, "note_on_node", said.append)
    whole = scene.sample(scene.apply(scene.text, scene.tokens()))
    assert torch.equal(scene.sample(scene.apply(scene.text, scene.tokens(), region=torch.zeros(1, 64, 64))), whole)
    assert said == ["The region is black, as Load Image gives it for a picture without alpha; read as no region."]
    assert torch.equal(
        scene.sample(scene.apply(scene.text, scene.tokens(), region=torch.zeros(1, 64, 65))), scene.sample(scene.text)
    )
    assert len(said) == 1


def test_a_region_of_integers_is_read_as_a_mask_is(scene: Any) -> None:
    tokens, levels = scene.tokens(), torch.full((1, 9, 9), 51, dtype=torch.uint8)
    region = scene.sample(scene.apply(scene.text, tokens, region=levels, strength=2.0))
    assert relative(region, scene.sample(scene.apply(scene.text, tokens, strength=0.4))) < 1e-6


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        (torch.full((1, 8, 8), torch.nan), "The region has 64 values that are NaN or infinite; numbers from 0 to 1"),
        (torch.full((1, 8, 8), 255.0), "The region has values of 255 on average; floats in 0..1, or uint8, are needed"),
        (torch.ones(1, 8, 8, dtype=torch.int64), "The region has dtype torch.int64; floats in 0..1, uint8"),
        (torch.zeros(1, 0, 8), r"The region has shape \(1, 0, 8\); a mask \[batch, height, width\] is needed"),
        (torch.zeros(1, 3, 8, 8), r"The region has shape \(1, 3, 8, 8\); a mask"),
    ],
)
def test_a_region_that_is_no_mask_is_refused(scene: Any, region: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        scene.apply(scene.text, scene.tokens(), region=region)
