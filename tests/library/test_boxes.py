"""Boxes as regions: exact areas, soft edges that sum to one, and sentences for what cannot be read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redux.boxes import LAYOUTS, MAX_BOXES, Box, draw_preview, draw_regions, parse_boxes, regions_of_layout

shares = st.floats(0, 1, allow_nan=False)


def fine(box: Box, height: int, width: int, cells: int = 16) -> torch.Tensor:
    """The hard box by counting small squares."""
    y = (torch.arange(height * cells) + 0.5) / (height * cells)
    x = (torch.arange(width * cells) + 0.5) / (width * cells)
    inside = ((y >= box.y) & (y <= box.y + box.height))[:, None] & ((x >= box.x) & (x <= box.x + box.width))
    return inside.float().unfold(0, cells, cells).unfold(1, cells, cells).mean((2, 3))


@settings(max_examples=40, deadline=None)
@given(x=shares, y=shares, width=st.floats(0.05, 1), height=st.floats(0.05, 1), rows=st.integers(1, 20))
def test_a_hard_box_holds_the_covered_share_of_each_pixel(
    x: float, y: float, width: float, height: float, rows: int
) -> None:
    box = Box(min(x, 1 - width), min(y, 1 - height), width, height)
    (region_YX,) = draw_regions((box,), rows, 13)
    assert (region_YX - fine(box, rows, 13)).abs().max() < 0.14  # a sixteenth in each direction
    assert abs(float(region_YX.mean()) - width * height) < 2e-3


@settings(max_examples=30, deadline=None)
@given(softness=st.floats(0, 1), split=st.floats(0.3, 0.7), width=st.integers(8, 60))
def test_boxes_that_touch_sum_to_one(softness: float, split: float, width: int) -> None:
    softness = min(softness, 2 * min(split, 1 - split) * 0.99)
    boxes = (Box(0, 0, split, 1), Box(split, 0, 1 - split, 1))
    regions_RYX = draw_regions(boxes, 64, width, min(softness, min(split, 1 - split)))
    torch.testing.assert_close(regions_RYX.sum(0), torch.ones(64, width), atol=1e-5, rtol=0)
    assert regions_RYX[0, :, 0].min() > 0.99 - softness  # the picture's border stays as it is
    assert (regions_RYX[0].diff(dim=1) <= 1e-6).all()


def test_softness_is_a_linear_ramp_centred_on_the_edge() -> None:
    (region_YX,) = draw_regions((Box(0, 0, 0.5, 1),), 100, 200, 0.2)  # 20 pixels wide, from 90 to 110
    assert torch.equal(region_YX[:, :90], torch.ones(100, 90)) and torch.equal(region_YX[:, 110:], torch.zeros(100, 90))
    expected = 1 - (torch.arange(20) + 0.5) / 20
    torch.testing.assert_close(region_YX[50, 90:110], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_divide_the_picture(layout: str) -> None:
    regions_RYX = regions_of_layout(layout, 60, 90, 0.1)
    torch.testing.assert_close(regions_RYX.sum(0), torch.ones(60, 90), atol=1e-5, rtol=0)
    assert 2 <= len(regions_RYX) <= MAX_BOXES


def test_numbers_are_percent_in_lines_or_parts() -> None:
    assert parse_boxes("0, 0, 50, 100\n 50 0 50 100 ;") == (Box(0, 0, 0.5, 1), Box(0.5, 0, 0.5, 1))
    assert parse_boxes("66.7, 0, 33.31, 100"), "rounding to a tenth of a percent stays inside"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "There is no box"),
        ("\n ;", "There is no box"),
        ("\n".join(["0, 0, 10, 10"] * 7), "There are 7 boxes"),
        ("0, 0, 10", "Box 1, '0, 0, 10', cannot be read"),
        ("0, 0, 10, 10\nleft half", "Box 2, 'left half', cannot be read"),
        ("10, 10, 0, 5", "has no area"),
        ("10, 10, -4, 5", "has no area"),
        ("0, 0, nan, 5", "has no area"),
        ("60, 0, 50, 100", "leaves the picture"),
        ("-1, 0, 50, 100", "leaves the picture"),
        ("nan, 0, 50, 100", "leaves the picture"),
        ("0, 0, 1_0, 10", "Box 1, '0, 0, 1_0, 10', cannot be read"),
        ("0" * 100_000, "Box 1, '0{59}…', cannot be read"),
        (f"{'0' * 99} 0 0 5", "Box 1, '0{59}…', has no area"),
        (f"{'9' * 99} 0 5 5", "Box 1, '9{59}…', leaves the picture"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=found) as error:
        parse_boxes(text)
    assert str(error.value).endswith(".")


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(ValueError, match="no layout 'fifths'"):
        regions_of_layout("fifths", 8, 8, 0)


def test_the_preview_shows_each_region_in_its_colour() -> None:
    regions_RYX = regions_of_layout("left, right", 512, 768, 0)
    drawing_YX3 = draw_preview(regions_RYX, torch.full((512, 768, 3), 0.5))
    assert max(drawing_YX3.shape[:2]) == 512 and drawing_YX3.min() >= 0 and drawing_YX3.max() <= 1
    left, right = drawing_YX3[20, 20], drawing_YX3[20, -20]
    assert left[0] > left[2] + 0.1 and right[2] > right[0] + 0.1  # orange and blue


@pytest.mark.parametrize("softness", [-0.1, 1.5, float("nan")])
def test_another_softness_is_refused(softness: float) -> None:
    with pytest.raises(ValueError, match="The softness is .*; 0 to 1 is needed."):
        regions_of_layout("left, right", 8, 8, softness)
