"""The sheet of an influence: where a map has nothing there is no colour, and everything has room."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redux.heatmap import BACKGROUND, Sheet, draw_glance, draw_influence, percent


def colorful(sheet_YX3: torch.Tensor) -> torch.Tensor:
    return sheet_YX3.amax(-1) - sheet_YX3.amin(-1) > 0.05


def tile(sheet_YX3: torch.Tensor, sheet: Sheet, index: int) -> torch.Tensor:
    (left, top), (width, height) = sheet.place(index), sheet.extent(index)
    return sheet_YX3[top : top + height, left : left + width]


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
def test_tiles_fill_the_sheet_without_overlap(width: int, height: int, count: int) -> None:
    sheet = Sheet.for_picture(width, height, count)
    assert max(sheet.tile) <= 768
    covered: set[tuple[int, int]] = set()
    for index in range(count):
        (left, top), (wide, high) = sheet.place(index), sheet.extent(index)
        assert left >= 0 and top >= sheet.unit
        assert left + wide <= sheet.size[0] and top + high <= sheet.size[1]
        columns, rows = (
            range(start // cell, -(-(start + side) // cell))
            for start, side, cell in zip((left, top), (wide, high), sheet.cell, strict=True)
        )
        assert abs(wide * sheet.tile[1] - high * sheet.tile[0]) <= max(sheet.tile), "another shape than the picture's"
        cells = {(row, column) for row in rows for column in columns}
        if index == 0:  # the picture is alone in its room, even where its shape leaves a part of it empty
            room = {(row, column) for row in range(sheet.span) for column in range(sheet.span)}
            assert cells <= room
            cells = room
        assert not covered & cells, "two pictures in one cell"
        covered |= cells
    assert len(covered) == (sheet.size[0] // sheet.cell[0]) * (sheet.size[1] // sheet.cell[1]), "an empty cell"


def test_titles_can_be_read_where_a_node_shows_the_sheet() -> None:
    """A node of usual width shows a sheet about 330 pixels wide."""
    for count in (4, 5, 6):
        sheet = Sheet.for_picture(1024, 1024, count)
        assert sheet.unit * 330 / sheet.size[0] > 6.5


@pytest.mark.parametrize("references", [1, 2, 3, 4, 6])
def test_a_glance_has_a_map_in_every_place(references: int) -> None:
    """In its lower right corner, too; and colour only where a reference acts."""
    half = torch.zeros(references + 2, 16, 16)
    half[:, :, 8:] = 1 / (references + 2)
    names = (*(f"reference {number}" for number in range(1, references + 1)), "text", "image")
    picture = torch.from_numpy(np.array(draw_glance(half, names)))
    assert picture.shape[1] == 512 and bool((picture[-1, -30] != torch.tensor(BACKGROUND)).any())
    colored = picture.float().std(-1) > 10
    left, right = colored[60:250].chunk(2, 1) if references == 1 else colored[60:250, :256].chunk(2, 1)
    assert right[:, 30:-40].all() and not left[:, 30:-30].any()


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
