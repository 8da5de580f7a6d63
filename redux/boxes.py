"""Boxes in a picture as regions: masks with soft edges, and a drawing of them.

Shapes: R regions, Y x X pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .heatmap import REFERENCES, load_font
from .typed import read_number, short

MAX_BOXES = 6
AROUND = "centre, around"


@dataclass(frozen=True)
class Box:
    """A box as shares 0..1 of the picture's width and height."""

    x: float
    y: float
    width: float
    height: float


LAYOUTS: dict[str, tuple[Box, ...]] = {
    "left, right": (Box(0, 0, 0.5, 1), Box(0.5, 0, 0.5, 1)),
    "top, bottom": (Box(0, 0, 1, 0.5), Box(0, 0.5, 1, 0.5)),
    "three columns": tuple(Box(index / 3, 0, 1 / 3, 1) for index in range(3)),
    "three rows": tuple(Box(0, index / 3, 1, 1 / 3) for index in range(3)),
    "quarters": tuple(Box(column / 2, row / 2, 0.5, 0.5) for row in range(2) for column in range(2)),
    AROUND: (Box(0.25, 0.25, 0.5, 0.5),),
}


def parse_boxes(text: str) -> tuple[Box, ...]:
    """Boxes from lines (or parts between semicolons) of four numbers: x, y, width, height in percent of the picture.

    Raises:
        ValueError: no box, more than MAX_BOXES, no four numbers, no area, or a box that leaves the picture.
    """
    lines = [line.strip() for line in re.split(r"[;\n]", text) if line.strip()]
    if not lines:
        raise ValueError("There is no box; draw one, write x, y, width, height in percent, or choose another layout.")
    if len(lines) > MAX_BOXES:
        raise ValueError(f"There are {len(lines)} boxes; at most {MAX_BOXES} have an output.")
    return tuple(_parse_box(number, line) for number, line in enumerate(lines, 1))


def _parse_box(number: int, line: str) -> Box:
    try:
        x, y, width, height = (read_number(part) / 100 for part in re.split(r"[\s,]+", line.strip(" ,")))
    except ValueError:
        raise ValueError(
            f"Box {number}, '{short(line)}', cannot be read; four numbers are needed: x, y, width, height in percent."
        ) from None
    if not (width > 0 and height > 0):  # also true of NaN
        raise ValueError(f"Box {number}, '{short(line)}', has no area; width and height above 0 are needed.")
    slack = 1e-4  # what rounding to hundredths of a percent may add
    if not (x >= -slack and y >= -slack and x + width <= 1 + slack and y + height <= 1 + slack):
        raise ValueError(f"Box {number}, '{short(line)}', leaves the picture, which is 0 to 100 percent wide and high.")
    return Box(x, y, width, height)


def check_layout(layout: str) -> None:
    """Raises ValueError: there is no such layout."""
    if layout not in tuple(LAYOUTS):
        raise ValueError(f"There is no layout '{short(layout)}'; choose one of {', '.join(LAYOUTS)}, or drawn boxes.")


def regions_of_layout(layout: str, height: int, width: int, softness: float) -> Tensor:
    """The regions [R, Y, X] of a layout of LAYOUTS; "centre, around" has a second one for what is not in the centre.

    Raises:
        ValueError: there is no such layout.
    """
    check_layout(layout)
    regions_RYX = draw_regions(LAYOUTS[layout], height, width, softness)
    return torch.cat((regions_RYX, 1 - regions_RYX)) if layout == AROUND else regions_RYX


def draw_regions(boxes: tuple[Box, ...], height: int, width: int, softness: float = 0.0) -> Tensor:
    """Masks [R, Y, X] in 0..1, fp32, of boxes.

    A pixel holds the share of it that is covered. Edges ramp linearly over `softness` times the picture's shorter side
    (at most the box's own side), centred on the edge, so that boxes that touch sum to one; an edge on the picture's
    border stays hard.

    Args:
        softness: 0 (hard) to 1.

    Raises:
        ValueError: it is another number, or none.
    """
    if not 0 <= softness <= 1:
        raise ValueError(f"The softness is {softness:g}; 0 to 1 is needed.")
    ramp = softness * min(height, width)
    rows = [_profile(box.y, box.y + box.height, height, ramp) for box in boxes]
    columns = [_profile(box.x, box.x + box.width, width, ramp) for box in boxes]
    return torch.stack([row[:, None] * column for row, column in zip(rows, columns, strict=True)]).float()


def _profile(start: float, stop: float, pixels: int, ramp: float) -> Tensor:
    """The covered share of each pixel along one axis."""
    first, last = start * pixels, stop * pixels
    ramp = min(ramp, last - first)
    edges = torch.arange(pixels + 1, dtype=torch.float64)
    near = 1e-3 * pixels  # an edge so near to the border is on it
    rising = edges if first <= near else _ramp_integral(edges - first, ramp)
    falling = torch.zeros_like(edges) if last >= pixels - near else _ramp_integral(edges - last, ramp)
    return (rising - falling).diff().clamp(0, 1)


def _ramp_integral(x: Tensor, ramp: float) -> Tensor:
    """The integral up to x of a step at 0 that takes `ramp` to rise from 0 to 1."""
    if ramp <= 0:
        return x.clamp(min=0)
    return (x + ramp / 2).clamp(0, ramp).square() / (2 * ramp) + (x - ramp / 2).clamp(min=0)


def draw_preview(regions_RYX: Tensor, background_YX3: Tensor | None = None, longest: int = 512) -> Tensor:
    """The regions, numbered and in the colours that the influence map gives to references, [Y, X, 3] in 0..1.

    Args:
        background_YX3: the picture under them, in 0..1; dark without one.
        longest: the longer side of the drawing is at most this.
    """
    height, width = regions_RYX.shape[1:]
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    canvas_YX3: np.ndarray = np.full((size[1], size[0], 3), 30, dtype=np.float32)
    if background_YX3 is not None:
        pixels = (background_YX3[..., :3].detach().cpu().float().clamp(0, 1).numpy() * 255).astype(np.uint8)
        canvas_YX3 = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), dtype=np.float32) * 0.6
    shares = [np.asarray(Image.fromarray(region.numpy()).resize(size)) for region in regions_RYX.cpu().float()]
    for index, share_YX in enumerate(shares):
        color = np.array(REFERENCES[index % len(REFERENCES)], dtype=np.float32)
        cover_YX1 = 0.55 * share_YX[..., None]
        canvas_YX3 = canvas_YX3 * (1 - cover_YX1) + color * cover_YX1
    picture = Image.fromarray(canvas_YX3.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    font = load_font(max(14, min(size) // 9))
    for number, share_YX in enumerate(shares, 1):
        place = _label_place(share_YX)
        draw.text(place, str(number), (255, 255, 255), font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)


def _label_place(share_YX: np.ndarray) -> tuple[float, float]:
    """x and y of a number: the middle of the region, or of its widest run where the middle is not in it."""
    rows, columns = share_YX.sum(1), share_YX.sum(0)
    total = max(float(rows.sum()), 1e-6)
    y, x = (float((np.arange(len(side)) * side).sum()) / total for side in (rows, columns))
    if share_YX[min(int(y), len(rows) - 1), min(int(x), len(columns) - 1)] < 0.5:
        y = len(rows) / 8  # the surroundings of a box: above it
    return x, y
