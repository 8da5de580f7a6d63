"""Several pictures in a reference and several images in a latent: joint, and one picture for each image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from redux_scene import count_calls, relative

COUNTS = (16, 9, 16)


def noise_batch(scene: Any, batch: int) -> dict[str, torch.Tensor]:
    return scene.comfy.empty_latent(batch=batch)


def picture(tokens: Any, index: int) -> Any:
    """One picture of a reference, with its own mask."""
    coverage = None if tokens.coverage is None else tokens.coverage[index : index + 1]
    return replace(tokens, tokens=tokens.tokens[index : index + 1], coverage=coverage)


def ragged() -> torch.Tensor:
    """Masks that leave another number of tokens of each picture."""
    return torch.stack([(torch.arange(16) < count).float() for count in COUNTS])


def alone(scene: Any, tokens: Any, index: int, batch: int, **options: Any) -> torch.Tensor:
    """Image `index` of a batch of equal noise in which every image reads only picture `index` of the reference."""
    single = scene.apply(scene.text, picture(tokens, index % tokens.num_pictures), **options)
    return scene.sample(single, latent=noise_batch(scene, batch))[index]


@pytest.mark.parametrize("coverage", [None, ragged()])
@pytest.mark.parametrize("batch", [3, 5, 2])  # as many images as pictures, more, fewer
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_per_image_is_each_picture_alone(scene: Any, coverage: Any, batch: int, strength: float) -> None:
    tokens = scene.tokens(pictures=3, coverage=coverage)
    conditioning = scene.apply(scene.text, tokens, batch="per image", strength=strength)
    mine = scene.sample(conditioning, latent=noise_batch(scene, batch))
    for index in range(batch):
        assert relative(mine[index], alone(scene, tokens, index, batch, strength=strength)) < 1e-5


def test_joint_lets_every_image_read_all_pictures(scene: Any) -> None:
    tokens = scene.tokens(pictures=3, coverage=ragged())
    conditioning = scene.apply(scene.text, tokens, strength=0.4)
    assert conditioning[0][0].shape == (1, sum(COUNTS) + 8, scene.comfy.sizes.context)
    single = scene.text
    for index in reversed(range(3)):
        single = scene.apply(single, picture(tokens, index), strength=0.4)
    latent = noise_batch(scene, 2)
    assert relative(scene.sample(conditioning, latent=latent), scene.sample(single, latent=latent)) < 1e-5


def test_a_region_and_a_picture_for_each_image(scene: Any) -> None:
    tokens = scene.tokens(pictures=3, coverage=ragged())
    masks = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2))
    conditioning = scene.apply(scene.text, tokens, batch="per image", region=masks)
    mine = scene.sample(conditioning, latent=noise_batch(scene, 3))
    for index in range(3):
        assert relative(mine[index], alone(scene, tokens, index, 3, region=masks[index])) < 1e-5


@pytest.mark.parametrize("coverage", [None, ragged()])
@pytest.mark.parametrize("batch", [3, 2])
def test_prompt_and_zeroed_prompt_in_one_call(scene: Any, coverage: Any, batch: int) -> None:
    """ComfyUI joins both where it can: images repeat within the batch, and so must pictures and regions."""
    tokens = scene.tokens(pictures=3, coverage=coverage)
    masks = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2))
    positive = scene.apply(scene.text, tokens, batch="per image", region=masks, strength=0.7)
    negative = scene.comfy.nodes.ConditioningZeroOut().zero_out(positive)[0]
    model, calls = count_calls(scene.flux)
    latent = noise_batch(scene, batch)
    joined = scene.sample(positive, model, negative=negative, cfg=3.0, latent=latent)
    assert [call["batch"] for call in calls] == [2 * batch] * 2
    rebuilt = scene.apply(scene.text, tokens, batch="per image", region=masks, strength=0.7)
    apart = scene.comfy.nodes.ConditioningZeroOut().zero_out(rebuilt)[0]
    calls.clear()
    assert relative(joined, scene.sample(positive, model, negative=apart, cfg=3.0, latent=latent)) < 1e-5
    assert [call["batch"] for call in calls] == [batch] * 4


def test_batches_that_do_not_fit_are_refused(scene: Any) -> None:
    two = scene.apply(scene.text, scene.tokens(pictures=2), batch="per image")
    with pytest.raises(ValueError, match="3 pictures and the conditioning 2 texts"):
        scene.apply(two, scene.tokens(pictures=3), batch="per image")
