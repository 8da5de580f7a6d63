"""The sheet of an influence: where a map has nothing there is no colour, and everything has room."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redux.heatmap import Sheet, draw_influence, percent


def colorful(sheet_YX3: torch.Tensor) -> torch.Tensor:
    return sheet_YX3.amax(-1) - sheet_YX3.amin(-1) > 0.05


def tile(sheet_YX3: torch.Tensor, sheet: Sheet, index: int) -> torch.Tensor:
    left, top = sheet.place(index)
    return sheet_YX3[top : top + sheet.tile[1], left : left + sheet.tile[0]]


def test_color_is_where_the_share_is() -> None:
    picture = torch.full((256, 256, 3), 0.5)
    half = torch.zeros(16, 16)
    half[:, :8] = 0.2
    out = draw_influence(picture, torch.stack((half, 1 - half)), ("reference 1", "image"))
    sheet = Sheet.for_picture(256, 256, 3)
    assert tuple(out.shape) == (*sheet.size[::-1], 3)
    reference = colorful(tile(out, sheet, 1))
    assert reference[:, :180].all() and not reference[:, 204:].any()  # but for the border of one token
    assert not colorful(tile(out, sheet, 0)).any()


def test_a_reference_that_never_acted_has_no_color() -> None:
    maps = torch.stack((torch.zeros(4, 4), torch.ones(4, 4)))
    out = draw_influence(torch.full((64, 64, 3), 0.5), maps, ("reference 1", "image"))
    assert not colorful(tile(out, Sheet.for_picture(64, 64, 3), 1)).any()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(2, 12))
def test_tiles_do_not_overlap_and_lie_inside(width: int, height: int, count: int) -> None:
    sheet = Sheet.for_picture(width, height, count)
    places = [sheet.place(index) for index in range(count)]
    assert max(sheet.tile) <= 768 and len(set(places)) == count
    for left, top in places:
        assert left >= 0 and top >= sheet.unit
        assert left + sheet.tile[0] <= sheet.size[0] and top + sheet.tile[1] <= sheet.size[1]


@settings(deadline=None, max_examples=8)
@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 6), st.integers(1, 20), st.integers(1, 20))
def test_any_size_is_drawn(width: int, height: int, references: int, rows: int, columns: int) -> None:
    names = (*(f"reference {number}" for number in range(1, references + 1)), "text", "image")
    maps = torch.rand(len(names), rows, columns).softmax(0)
    out = draw_influence(torch.rand(height, width, 3), maps, names)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.12345, "12.3 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.000456, "0.0456 %"),
        (0.9999, "100 %"),
        (1e-9, "< 0.01 %"),
    ],
)
def test_percents_have_three_digits(share: float, text: str) -> None:
    assert percent(share) == text
