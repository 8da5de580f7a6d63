"""The preview: what is read is clear, what is not is dim and red, tiles stand in their places, kept tokens are drawn.

Shapes: Y x X pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import redux
from redux.image import FITS
from redux.preview import DROPPED_COLOUR, GAP, draw_views, outline

SIDE, CELL = 112, 14  # the small tower's square and patch

CONFIG = redux.SiglipConfig(image_size=112, patch_size=14, hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)


@pytest.fixture(scope="module")
def tiny() -> redux.ReduxModel:
    return redux.ReduxModel(CONFIG, redux.ReduxConfig(in_features=32, hidden_features=48, out_features=8)).eval()


def draw(model: redux.ReduxModel, images: Tensor, pool: int | None = None, picture: int = 0, **options: Any) -> Tensor:
    views = model.views(images, **options)
    tokens = model.encode_views(views)
    tokens = tokens if pool is None else tokens.pool_to(pool)
    return draw_views(views, tokens, picture, (options.get("tiles") or (0, 0))[1] or None)


def centres(image_YXC: Tensor, grid: tuple[int, int] = (8, 8)) -> Tensor:
    """[rows, columns, C]: the mean colour of the middle of each cell."""
    height, width = len(image_YXC) // grid[0], image_YXC.shape[1] // grid[1]
    cells = (
        image_YXC[: height * grid[0], : width * grid[1]].unflatten(1, (grid[1], width)).unflatten(0, (grid[0], height))
    )
    return cells[:, 4:-4, :, 4:-4].mean((1, 3))


def test_what_is_read_is_clear(tiny: redux.ReduxModel) -> None:
    colours_BYXC = torch.rand(2, 8, 8, 3).repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    for picture in range(2):
        drawn = draw(tiny, colours_BYXC, picture=picture)
        assert drawn.shape == (SIDE, SIDE, 3)
        assert torch.allclose(centres(drawn), centres(colours_BYXC[picture]), atol=0.01)


def test_dropped_patches_are_dim_and_red(tiny: redux.ReduxModel) -> None:
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:5, 1:7] = 1
    mask[0, 0, 0] = 0.5
    grey = centres(
        draw(tiny, torch.full((1, SIDE, SIDE, 3), 0.6), mask=mask.repeat_interleave(14, 1).repeat_interleave(14, 2))
    )
    read = mask[0] == 1
    assert torch.allclose(grey[read], torch.tensor(0.6), atol=0.01)
    dropped = grey[mask[0] == 0]
    assert bool((dropped[:, 0] > 1.4 * dropped[:, 1:].amax(1)).all()), "redder than anything else"
    assert bool((dropped.mean(1) < 0.6 * 0.6).all()), "and darker"
    assert torch.allclose(dropped, 0.6 * 0.25 + torch.tensor(DROPPED_COLOUR) * 0.25, atol=0.01)
    assert torch.allclose(grey[0, 0], (dropped[0] + 0.6) / 2, atol=0.02), "a half is half so"


def test_padding_is_dropped_and_the_picture_is_in_the_middle(tiny: redux.ReduxModel) -> None:
    cells = centres(draw(tiny, torch.full((1, 60, 240, 3), 0.9), fit="pad"))
    red = cells[..., 0] > 1.4 * cells[..., 1]
    assert red.all(1).tolist() == [True] * 3 + [False] * 2 + [True] * 3
    assert not red[3:5].any()


def test_tiles_stand_in_their_places(tiny: redux.ReduxModel) -> None:
    """The whole on the left, as high as the wall of 2 x 3 tiles on the right."""
    rows = torch.tensor([0.2, 0.8]).repeat_interleave(100)
    columns = torch.tensor([0.1, 0.5, 0.9]).repeat_interleave(80)
    picture_YXC = torch.stack([rows[:, None].expand(200, 240), columns.expand(200, 240), torch.zeros(200, 240)], -1)
    drawn = draw(tiny, picture_YXC[None], fit="tiles", tiles=(2, 3))
    height, width = 2 * SIDE + GAP, 3 * SIDE + 2 * GAP
    assert drawn.shape == (height, height + GAP + width, 3)
    wall = drawn[:, height + GAP :]
    for row in range(2):
        for column in range(3):
            top, left = row * (SIDE + GAP), column * (SIDE + GAP)
            tile = centres(wall[top : top + SIDE, left : left + SIDE])
            assert torch.allclose(tile[..., 0], torch.tensor(0.2 + 0.6 * row), atol=0.02)
            assert torch.allclose(tile[..., 1], torch.tensor(0.1 + 0.4 * column), atol=0.02)
    assert bool((drawn[:, height : height + GAP] == 1).all()), "white between them"
    assert bool((wall[SIDE : SIDE + GAP] == 1).all() and (wall[:, SIDE : SIDE + GAP] == 1).all())


def lines(image_YXC: Tensor) -> tuple[int, int]:
    """How many lines across and down are brighter than their surroundings of one colour."""
    grey_YX = image_YXC.mean(-1)
    down, across = grey_YX.median(1).values, grey_YX.median(0).values
    return tuple(int((values > values.median() + 0.02).sum()) for values in (down, across))  # type: ignore[return-value]


@pytest.mark.parametrize(("budget", "side"), [(None, 8), (25, 5), (9, 3), (1, 1)])
def test_the_grid_is_that_of_the_kept_tokens(tiny: redux.ReduxModel, budget: int | None, side: int) -> None:
    assert lines(draw(tiny, torch.full((1, 90, 90, 3), 0.4), budget)) == (side, side)


def test_only_pixels_that_the_tower_reads_are_drawn(photo: Callable[..., Tensor]) -> None:
    """Of 384 pixels a side, 27 patches of 14 end at 378."""
    config = replace(CONFIG, image_size=384)
    model = redux.ReduxModel(config, redux.ReduxConfig(in_features=32, hidden_features=48, out_features=8)).eval()
    mask = torch.zeros(1, 384, 384)
    mask[:, :, 14 * 26 : 14 * 27] = 1
    drawn = draw(model, photo(384, 384), mask=mask)
    assert drawn.shape == (378, 378, 3)
    clear = photo(384, 384)[0, 1:14, 365:378]
    assert torch.allclose(drawn[1:14, 365:], clear, atol=0.01)


def test_native_has_the_shape_of_the_picture(tiny: redux.ReduxModel) -> None:
    drawn = draw(tiny, torch.full((1, 100, 300, 3), 0.4), fit="native")
    (grid,) = tiny.encode(torch.full((1, 100, 300, 3), 0.4), fit="native").grids
    assert drawn.shape == (grid[0] * CELL, grid[1] * CELL, 3) and lines(drawn) == grid


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(4, 90), st.integers(4, 90)),
    fit=st.sampled_from(sorted(FITS)),
    masked=st.booleans(),
    budget=st.none() | st.integers(5, 70),
    batch=st.integers(1, 3),
)
def test_any_reference_can_be_drawn(
    tiny: redux.ReduxModel, size: tuple[int, int], fit: str, masked: bool, budget: int | None, batch: int
) -> None:
    images = torch.rand(batch, *size, 3)
    mask = torch.rand(batch, 9, 7) if masked else None
    views = tiny.views(images, fit=fit, mask=mask)
    tokens, empty = tiny.encode_views(views), outline(views, tiny.config.num_tokens)
    assert empty.parts == tokens.parts and empty.num_pictures == tokens.num_pictures
    if budget is not None:
        tokens, empty = tokens.pool_to(budget), empty.pool_to(budget)
    before = [view.pixels_BCST.clone() for view in views]
    drawn = [draw_views(views, tokens, picture) for picture in range(batch)]
    assert torch.equal(draw_views(views, empty), drawn[0]), "as it is drawn before the tower has run"
    assert len({picture.shape for picture in drawn}) == 1
    assert all(bool(((picture >= 0) & (picture <= 1)).all()) for picture in drawn)
    assert all(torch.equal(view.pixels_BCST, pixels) for view, pixels in zip(views, before, strict=True))


def test_a_gpu_and_half_precision_make_no_difference(tiny: redux.ReduxModel, photo: Callable[..., Tensor]) -> None:
    views = tiny.views(photo(60, 90), fit="pad")
    tokens = tiny.encode_views(views)
    assert torch.equal(draw_views(views, tokens), draw_views(views, tokens.to(dtype=torch.bfloat16)))
