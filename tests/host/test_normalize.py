"""Normalize: what counts is the reference, not the number of its tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from redux_scene import make_bias, relative

TEXT = 8


def repeated(scene: Any, tokens: Any, times: int) -> Any:
    """Every token `times` times, still one reference of as many tokens as before."""
    values = tokens.tokens.repeat_interleave(times, dim=1)
    part = scene.pack.redux.tokens.Part(((values.shape[1], 1),), tokens.full_count)
    return replace(tokens, tokens=values, parts=(part,))


@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_a_reference_of_repeated_tokens_is_the_same(scene: Any, times: int, strength: float) -> None:
    tokens = scene.tokens()
    once = scene.sample(scene.apply(scene.text, tokens, strength=strength))
    many = scene.sample(scene.apply(scene.text, repeated(scene, tokens, times), strength=strength))
    assert relative(many, once) < 1e-5
    raw = scene.sample(scene.apply(scene.text, repeated(scene, tokens, times), strength=strength, normalize=False))
    assert relative(raw, once) > 1e-3


def dense(scene: Any, values_1ND: torch.Tensor, weight: float) -> torch.Tensor:
    """Every token counts `weight`, for the reference's own queries as well: it stands for so many tokens."""
    count = values_1ND.shape[1]
    bias = make_bias(count + TEXT + 64, [(0, count, weight)], first=0)
    part = scene.pack.redux.tokens.Part(((count, 1),), count)
    return scene.dense(bias, scene.pack.redux.ReduxTokens(values_1ND, (part,)))


def test_a_pooled_reference_counts_as_a_whole_one(scene: Any) -> None:
    tokens = scene.tokens().pool((2, 2))
    assert tokens.tokens.shape[1] == 4
    assert relative(scene.sample(scene.apply(scene.text, tokens)), dense(scene, tokens.tokens, 4.0)) < 1e-5
    raw = scene.sample(scene.apply(scene.text, tokens, normalize=False))
    assert relative(raw, dense(scene, tokens.tokens, 1.0)) < 1e-5


def test_a_masked_reference_counts_as_a_whole_one(scene: Any) -> None:
    coverage = torch.tensor([[1.0, 0.2, 0.0, 0.0] * 4])
    tokens = scene.tokens(coverage=coverage)
    kept = tokens.tokens[:, coverage[0] > 0]
    assert relative(scene.sample(scene.apply(scene.text, tokens)), dense(scene, kept, 2.0)) < 1e-5
    raw = scene.sample(scene.apply(scene.text, tokens, normalize=False))
    assert relative(raw, dense(scene, kept, 1.0)) < 1e-5


def test_joined_references_count_as_one_each(scene: Any) -> None:
    """Of a reference with a pooled part each part is compared with its own whole."""
    whole, small = scene.tokens(1), scene.tokens(2).pool((1, 1))
    joined = scene.pack.redux.tokens.ReduxTokens(
        torch.cat((whole.tokens, small.tokens), dim=1), (*whole.parts, *small.parts)
    )
    bias = make_bias(17 + TEXT + 64, [(16, 17, 16.0)], first=0)
    assert relative(scene.sample(scene.apply(scene.text, joined)), scene.dense(bias, whole, small)) < 1e-5


def test_a_mask_that_covers_nothing_is_refused(scene: Any) -> None:
    coverage = torch.stack((torch.ones(16), torch.zeros(16)))
    with pytest.raises(ValueError, match="Picture 2 of the reference has no tokens left"):
        scene.apply(scene.text, scene.tokens(pictures=2, coverage=coverage))
