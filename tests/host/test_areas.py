"""References in conditionings for an area or a mask of the picture."""

from __future__ import annotations

from typing import Any

import torch
from redux_scene import count_calls, make_bias, relative


def left(scene: Any, conditioning: list) -> list:
    return scene.comfy.nodes.ConditioningSetArea().append(conditioning, 64, 128, 0, 0, 1.0)[0]


def right(scene: Any, conditioning: list) -> list:
    return scene.comfy.nodes.ConditioningSetArea().append(conditioning, 64, 128, 64, 0, 1.0)[0]


def masked(scene: Any, conditioning: list) -> list:
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:] = 1
    return scene.comfy.nodes.ConditioningSetMask().append(conditioning, mask, "default", 1.0)[0]


def dense_model(scene: Any, length: int) -> Any:
    """Calls with so many keys have the reference at 0.4, others none; half the picture has 32 image tokens."""
    return scene.dense_model(
        lambda options, keys: make_bias(length, [(0, 16, 0.4)], 16) if keys == length else torch.zeros(1, 1, keys, keys)
    )


def test_a_reference_in_an_area(scene: Any) -> None:
    """Left with a reference, everywhere without; the negative gets an area of its own from ComfyUI."""
    tokens, other = scene.tokens(), scene.comfy.conditioning(seed=5)
    mine = left(scene, scene.apply(scene.text, tokens, strength=0.4)) + other
    plain = left(scene, scene.plain(tokens)) + other
    model = dense_model(scene, 16 + 8 + 32)
    for cfg in (1.0, 3.0):
        dense = scene.sample(plain, model, negative=scene.text, cfg=cfg)
        assert relative(scene.sample(mine, negative=scene.text, cfg=cfg), dense) < 1e-5


def test_two_areas_of_one_conditioning_are_one_call(scene: Any) -> None:
    tokens = scene.tokens()
    reference = scene.apply(scene.text, tokens, strength=0.4)
    model, calls = count_calls(scene.flux)
    mine = scene.sample(left(scene, reference) + right(scene, reference), model)
    assert [call["batch"] for call in calls] == [2, 2]
    plain = left(scene, scene.plain(tokens)) + right(scene, scene.plain(tokens))
    assert relative(mine, scene.sample(plain, dense_model(scene, 16 + 8 + 32))) < 1e-5


def test_a_region_is_stretched_over_an_area(scene: Any) -> None:
    """As ComfyUI does with the picture of a ControlNet."""
    tokens, latent = scene.tokens(), scene.comfy.empty_latent(128, 64)
    region = torch.zeros(1, 10, 10)
    region[:, :5] = 1
    reference = scene.apply(scene.text, tokens, region=region)
    whole = scene.sample(left(scene, reference), latent=latent)
    assert relative(whole, scene.sample(reference, latent=latent)) < 1e-6


def test_masks_of_a_conditioning(scene: Any) -> None:
    tokens, other = scene.tokens(), scene.comfy.conditioning(seed=5)
    mine = masked(scene, scene.apply(scene.text, tokens, strength=0.4)) + other
    plain = masked(scene, scene.plain(tokens)) + other
    dense = scene.sample(plain, dense_model(scene, 16 + 8 + 64))
    assert relative(scene.sample(mine), dense) < 1e-5
