"""Pooling: the mean by area, weighted with what is to be read, against sums over small equal pieces.

Shapes: B pictures, N tokens, D width, R x C grid, r x c pooled grid.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redux.mix import cat_tokens
from redux.pooling import overlap
from redux.tokens import Grid, Part, ReduxTokens

WIDTH = 5


def make(grids: tuple[Grid, ...], *, batch: int = 2, seed: int = 0, holes: float | None = None) -> ReduxTokens:
    """One part with the grids; `holes` is the share of tokens that are dropped, the others are read in part."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(map(math.prod, grids))
    tokens_BND = torch.randn(batch, count, WIDTH, generator=generator)
    coverage_BN = None
    if holes is not None:
        coverage_BN = torch.rand(batch, count, generator=generator)
        coverage_BN = torch.where(torch.rand(batch, count, generator=generator) < holes, 0, coverage_BN)
    return ReduxTokens(tokens_BND, (Part(grids, 729),), coverage_BN, "abc", {"fit": "pad"})


def pool_pieces(values_RCX: Tensor, small: Grid) -> Tensor:
    """The mean over each of r x c equal rectangles, in float64: cells are repeated until the rectangles cut none."""
    for axis, side in enumerate(small):
        length = values_RCX.shape[axis]
        fine = values_RCX.repeat_interleave(math.lcm(length, side) // length, dim=axis)
        values_RCX = fine.unflatten(axis, (side, -1)).mean(dim=axis + 1)
    return values_RCX


def reference_pool(tokens: ReduxTokens, small: Grid, view: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens [B, r, c, D] and coverage [B, r, c] of a view, in float64."""
    values_BND, cover_BN, grid = tokens.by_view()[view]
    pairs = zip(values_BND.double().unflatten(1, grid), cover_BN.double().unflatten(1, grid), strict=True)
    sums, covers = [], []
    for values_RCD, cover_RC in pairs:
        sums.append(pool_pieces(values_RCD * cover_RC[..., None], small))
        covers.append(pool_pieces(cover_RC, small))
    cover_Brc = torch.stack(covers)
    return torch.stack(sums) / cover_Brc[..., None].clamp(min=1e-30), cover_Brc


sides = st.integers(1, 32)
grids = st.tuples(sides, sides)


@settings(max_examples=150, deadline=None)
@given(grid=grids, small=grids, holes=st.none() | st.sampled_from([0.0, 0.3, 0.9, 1.0]), seed=st.integers(0, 9))
def test_pool_is_the_mean_by_area_and_coverage(grid: Grid, small: Grid, holes: float | None, seed: int) -> None:
    tokens = make((grid,), seed=seed, holes=holes)
    pooled = tokens.pool(small)
    expected = min(grid[0], small[0]), min(grid[1], small[1])
    values, covers = reference_pool(tokens, expected)
    assert pooled.grid == expected and pooled.full_count == 729
    assert (pooled.encoder, pooled.about) == ("abc", {"fit": "pad"})
    if holes is None:
        assert pooled.coverage is None
    else:
        assert pooled.coverage is not None and bool(((pooled.coverage >= 0) & (pooled.coverage <= 1)).all())
        assert torch.equal(pooled.coverage > 0, covers.flatten(1) > 0)
        assert torch.allclose(pooled.coverage.double(), covers.flatten(1), atol=1e-6)
    kept = covers.flatten(1) > 0
    assert torch.allclose(pooled.tokens[kept].double(), values.flatten(1, 2)[kept], atol=1e-4, rtol=1e-4)


@settings(max_examples=80, deadline=None)
@given(grid=grids, small=grids, holes=st.sampled_from([0.3, 0.7]), seed=st.integers(0, 9))
def test_dropped_tokens_have_no_say(grid: Grid, small: Grid, holes: float, seed: int) -> None:
    """Whatever stands in a dropped token, not one bit of a pooled token changes, and nothing passed in does."""
    tokens = make((grid,), seed=seed, holes=holes)
    assert tokens.coverage is not None
    wild = replace(tokens, tokens=torch.where(tokens.coverage[..., None] > 0, tokens.tokens, 1e30))
    copies = wild.tokens.clone(), tokens.coverage.clone()
    pairs = zip(wild.pool(small).kept(), tokens.pool(small).kept(), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)
    assert torch.equal(wild.tokens, copies[0]) and torch.equal(tokens.coverage, copies[1])


@pytest.mark.parametrize("length", range(1, 65))
def test_shares_of_intervals_are_exact(length: int) -> None:
    """27 into 21: the edge at 9 of 27 computed in floating point lies beside 9, and lends a neighbour 1e-16."""
    for small in range(1, length + 1):
        shares = overlap(length, small).double()
        assert torch.allclose(shares.sum(1), torch.ones(small, dtype=torch.float64), atol=1e-6)
        assert torch.allclose(shares.sum(0), torch.full((length,), small / length, dtype=torch.float64), atol=1e-6)
        smallest = float(shares[shares > 0].min())
        assert smallest > 0.99 * math.gcd(length, small) / length  # a positive share is at least one whole step


def test_a_covered_neighbour_does_not_revive_a_dropped_token() -> None:
    for length in range(2, 40):
        for small in range(1, length):
            for edge in (i for i in range(1, small) if i * length % small == 0):
                cover_1N = torch.zeros(1, length)
                cover_1N[:, : edge * length // small] = 1
                tokens = ReduxTokens(torch.ones(1, length, 1), (Part(((1, length),), 729),), cover_1N)
                pooled = tokens.pool((1, small)).coverage
                assert pooled is not None and torch.equal(pooled[0] > 0, torch.arange(small) < edge), (length, small)


def test_pool_never_grows_and_one_by_one_is_the_mean() -> None:
    tokens = make(((4, 6),))
    assert torch.equal(tokens.pool((4, 6)).tokens, tokens.tokens)
    assert tokens.pool((100, 3)).grid == (4, 3) and tokens.pool((2, 100)).grid == (2, 6)
    assert torch.allclose(tokens.pool((1, 1)).tokens[:, 0], tokens.tokens.mean(1), atol=1e-6)


@pytest.mark.parametrize("grid", [(0, 1), (1, 0), (-3, -3)])
def test_less_than_one_is_refused(grid: Grid) -> None:
    with pytest.raises(ValueError, match="1 x 1 is the least"):
        make(((4, 6),)).pool(grid)


@pytest.mark.parametrize("grid", [5, None, (3,), (3, 3, 3), (1.5, 2), "ab"])
def test_a_grid_is_two_whole_numbers(grid: Any) -> None:
    with pytest.raises(ValueError, match="two whole numbers"):
        make(((4, 6),)).pool(grid)
    assert make(((4, 6),)).pool((np.int64(2), 3)).grid == (2, 3)


def test_each_view_and_each_part_is_pooled_by_itself() -> None:
    """Tiles: the whole picture and two parts of it; and beside it another reference."""
    tiled, plain = make(((6, 6), (6, 6), (2, 9))), make(((5, 4),), seed=1, holes=0.4)
    both = cat_tokens([tiled, plain], lambda references: tuple(r.parts[0] for r in references))
    pooled = both.pool((3, 3))
    assert pooled.grids == ((3, 3), (3, 3), (2, 3), (3, 3))
    assert [part.grids for part in pooled.parts] == [((3, 3), (3, 3), (2, 3)), ((3, 3),)]
    for view, (values_BND, _, grid) in enumerate(pooled.by_view()):
        expected, covers = reference_pool(both, grid, view)
        kept = covers.flatten(1) > 0
        assert torch.allclose(values_BND[kept].double(), expected.flatten(1, 2)[kept], atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(views=st.lists(grids, min_size=1, max_size=6), budget=st.integers(1, 3000))
def test_a_budget_is_kept_and_used(views: list[Grid], budget: int) -> None:
    tokens = ReduxTokens(torch.zeros(1, sum(map(math.prod, views)), 1), (Part(tuple(views), 729),))
    if budget < len(views):
        with pytest.raises(ValueError, match=f"budget of {budget} tokens is too small for {len(views)} views"):
            tokens.pool_to(budget)
        return
    pooled = tokens.pool_to(budget)
    count = pooled.tokens.shape[1]
    assert count <= budget
    assert all(new[0] <= old[0] and new[1] <= old[1] for new, old in zip(pooled.grids, views, strict=True))
    if count < tokens.tokens.shape[1]:  # one more on the longest side would be too many
        longest = max(max(grid) for grid in pooled.grids) + 1
        larger = [tuple(max(1, round(s * min(1, longest / max(grid)))) for s in grid) for grid in views]
        assert sum(map(math.prod, larger)) > budget


def test_budgets_keep_the_aspect() -> None:
    wide = make(((18, 40),))
    rows, columns = wide.pool_to(200).grid
    assert rows / columns == pytest.approx(18 / 40, rel=0.1) and 170 < rows * columns <= 200
    tiles = make(((27, 27),) * 5)
    assert tiles.pool_to(1458).grids == ((17, 17),) * 5 and tiles.pool_to(5).grids == ((1, 1),) * 5
    assert tiles.pool_to(5 * 729).grids == tiles.grids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_averaged_in_fp32(dtype: torch.dtype) -> None:
    """Only the results are rounded: soft coverage is not."""
    tokens = make(((27, 27),), holes=0.2).to(dtype=dtype)
    pooled, full = tokens.pool((5, 5)), tokens.to(dtype=torch.float32).pool((5, 5))
    assert pooled.tokens.dtype == dtype
    assert torch.equal(pooled.tokens, full.tokens.to(dtype))


@pytest.mark.parametrize(
    ("grids_", "full", "weight"),
    [((), 729, 1.0), (((0, 3),), 729, 1.0), (((-3, -3),), 729, 1.0), (((3, 3),), 0, 1.0)]
    + [(((3, 3),), 729, weight) for weight in (0.0, -1.0, math.nan, math.inf)],
)
def test_parts_without_a_meaning_are_refused(grids_: tuple[Grid, ...], full: int, weight: float) -> None:
    with pytest.raises(ValueError, match="A reference has the"):
        Part(grids_, full, weight)
