"""References side by side: each keeps its influence in attention, whatever number of tokens it has.

Shapes: B pictures, N tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import redux
from redux.reference import place_tokens
from redux.tokens import Grid, Part, ReduxTokens

WIDTH = 6


def make(grid: Grid = (27, 27), seed: int = 0, holes: float | None = None) -> ReduxTokens:
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1]
    tokens_BND = torch.randn(1, count, WIDTH, generator=generator)
    coverage_BN = None if holes is None else (torch.rand(1, count, generator=generator) >= holes).float()
    return ReduxTokens(tokens_BND, (Part((grid,), 729),), coverage_BN)


def shares(reference: ReduxTokens, normalize: bool = True) -> list[float]:
    """What all tokens of each part count together, in tokens of plain Redux."""
    _, parts = place_tokens(reference, normalize=normalize)
    return [part.length * part.weight * math.exp(part.log_count) for part in parts]


def test_join_and_normalize_keep_the_influence_of_each() -> None:
    """A whole reference, one pooled to a ninth, one of which a mask leaves little, and one with weight 0.5."""
    whole, pooled = make(), make(seed=1).pool((9, 9))
    masked = make(seed=2, holes=0.97)
    joined = redux.mix([whole, pooled, masked, whole], "join", [1, 1, 1, 0.5])
    assert shares(joined) == pytest.approx([729, 729, 729, 364.5])
    assert shares(joined, normalize=False) == pytest.approx([729 + 81 + len(masked.kept()[0]), 364.5])
    again = redux.mix([joined, pooled], "join", [0.5, 2])
    assert shares(again) == pytest.approx([364.5, 364.5, 364.5, 182.25, 1458])
    assert shares(redux.mix([whole, pooled], "join", [0, 1])) == pytest.approx([729])


def test_tokens_that_are_no_numbers_are_refused_where_they_would_be_read() -> None:
    """They made the whole picture black, without a word."""
    broken = make((2, 2))
    broken.tokens[0, 3] = math.inf
    with pytest.raises(ValueError, match="The reference has tokens that are NaN or infinite; encode its picture anew."):
        place_tokens(broken)
    place_tokens(replace(broken, coverage=torch.tensor([[1.0, 1.0, 1.0, 0.0]])))  # the mask leaves it out


def test_tiles_can_be_joined_and_of_one_kind_be_averaged() -> None:
    tiled = ReduxTokens(torch.randn(1, 18, WIDTH), (Part(((3, 3), (3, 3)), 729),))
    other = replace(tiled, tokens=torch.randn(1, 18, WIDTH))
    assert redux.mix([tiled, make((3, 3))], "join").grids == ((3, 3),) * 3
    assert torch.allclose(redux.mix([tiled, other]).tokens, (tiled.tokens + other.tokens) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="no common grid for slerp; join them instead"):
        redux.mix([tiled, make((3, 3))], "slerp")
