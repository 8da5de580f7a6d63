"""What a `ReduxTokens` promises about itself.

Shapes: B pictures, N tokens, D width.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from redux.mix import cat_tokens, check_alike
from redux.tokens import Part, ReduxTokens


def reference(
    batch: int = 2, grid: tuple[int, int] = (2, 3), width: int = 4, cover: Tensor | None = None
) -> ReduxTokens:
    tokens_BND = torch.randn(batch, grid[0] * grid[1], width, generator=torch.Generator().manual_seed(0))
    return ReduxTokens(tokens_BND, (Part((grid,), 64),), cover, "abc")


def test_facts() -> None:
    tokens = reference()
    assert (tokens.num_pictures, tokens.width, tokens.grid, tokens.full_count) == (2, 4, (2, 3), 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens.encoder = "other"  # type: ignore[misc]


@pytest.mark.parametrize("shape", [(6, 4), (2, 7, 4), (2, 5, 4), (2, 6)])
def test_tokens_must_fill_the_grids(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit the grids"):
        ReduxTokens(torch.zeros(shape), (Part(((2, 3),), 64),))


@pytest.mark.parametrize("shape", [(2, 5), (1, 6), (2, 6, 1)])
def test_coverage_must_fit_the_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="coverage of shape"):
        reference(cover=torch.ones(shape))


def test_kept_drops_what_has_no_coverage() -> None:
    cover = torch.tensor([[0, 1, 0.5, 0, 0, 0.01], [1, 1, 1, 1, 1, 1]])
    tokens = reference(cover=cover)
    first, second = tokens.kept()
    assert torch.equal(first, tokens.tokens[0, [1, 2, 5]])
    assert torch.equal(second, tokens.tokens[1])
    assert all(torch.equal(kept, whole) for kept, whole in zip(reference().kept(), tokens.tokens, strict=True))


def test_to_moves_everything_and_changes_nothing() -> None:
    tokens = reference(cover=torch.full((2, 6), 0.3))
    half = tokens.to(dtype=torch.bfloat16)
    assert half.tokens.dtype == torch.bfloat16 and tokens.tokens.dtype == torch.float32
    assert half.coverage is not None and half.coverage.dtype == torch.float32
    moved = tokens.to("meta")
    assert moved.coverage is not None and moved.tokens.device == moved.coverage.device == torch.device("meta")
    assert (half.parts, half.encoder) == (tokens.parts, tokens.encoder)


def test_views_stand_side_by_side() -> None:
    whole, tile = reference(), reference(grid=(1, 2), cover=torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
    part = Part(((2, 3), (1, 2)), 64)
    both = cat_tokens([whole, tile], lambda references: (part,))
    assert both.grids == ((2, 3), (1, 2)) and both.full_count == 64 and both.encoder == "abc"
    assert torch.equal(both.tokens, torch.cat([whole.tokens, tile.tokens], dim=1))
    assert both.coverage is not None and both.coverage[:, :6].eq(1).all()
    assert [len(kept) for kept in both.kept()] == [7, 8]
    assert [[len(kept) for kept in parts] for parts in both.kept_parts()] == [[7], [8]]
    with pytest.raises(ValueError, match="has 2 grids"):
        _ = both.grid


def test_only_like_and_like_go_together() -> None:
    check_alike([reference(), reference(grid=(5, 5))], "join")
    for other, words in (
        (reference(batch=3), "of 2 and 3 pictures"),
        (reference(width=8), "widths 4 and 8"),
        (dataclasses.replace(reference(), encoder="xyz"), r"two encoders \(abc, xyz\)"),
    ):
        with pytest.raises(ValueError, match=words):
            check_alike([reference(), other], "join")
    with pytest.raises(ValueError, match="no references to join"):
        check_alike([], "join")
