"""A sweep: one number after another in one batch, and its pictures as one labelled sheet.

Shapes: B pictures, Y x X pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .heatmap import BACKGROUND, INK, Font, load_font
from .typed import read_number, short

MAX_VALUES = 16
LONGEST = 512  # of the longer side of a picture on the sheet
ASPECT = 1.5  # width / height that the sheet comes near to


def parse_values(text: str) -> tuple[float, ...]:
    """Read numbers that commas, semicolons, spaces or lines separate.

    Raises:
        ValueError: no number, more than MAX_VALUES, or something that is not a finite number.
    """
    words = [word for word in re.split(r"[,;\s]+", text) if word]
    if not words:
        raise ValueError(f"The sweep has no values; write 1 to {MAX_VALUES} numbers, e.g. 0.1, 0.3, 1.")
    if len(words) > MAX_VALUES:
        raise ValueError(f"The sweep has {len(words)} values; 1 to {MAX_VALUES} are needed.")
    return tuple(map(_number, words))


def _number(word: str) -> float:
    try:
        value = read_number(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"The value '{short(word)}' of the sweep is no number; write e.g. 0.1, 0.3, 1.")
    return value


def draw_sheet(pictures_BYX3: Tensor, labels: Sequence[str], columns: int = 0) -> Tensor:
    """The pictures row by row, each with its label below.

    Args:
        pictures_BYX3: values 0..1.
        labels: one for each picture.
        columns: pictures in a row; 0 = as fits a sheet of about ASPECT.

    Returns:
        [height, width, 3] in 0..1, fp32 on the CPU.

    Raises:
        ValueError: another number of labels than of pictures.
    """
    count, height, width = pictures_BYX3.shape[:3]
    if len(labels) != count:
        raise ValueError(f"There are {count} pictures and {len(labels)} labels; one line for each picture is needed.")
    scale = min(1.0, LONGEST / max(height, width))
    side_x, side_y = max(1, round(width * scale)), max(1, round(height * scale))
    unit = max(12, min(side_x, side_y) // 16)
    cell_x, cell_y = side_x + unit, side_y + 2 * unit
    columns = min(columns, count) or _choose_columns(count, cell_x / cell_y)
    canvas = Image.new("RGB", (columns * cell_x + unit, -(-count // columns) * cell_y + unit), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index, label in enumerate(labels):
        row, column = divmod(index, columns)
        left, top = unit + column * cell_x, unit + row * cell_y
        picture = Image.fromarray((_levels(pictures_BYX3[index]) * 255).round().astype(np.uint8))
        canvas.paste(picture.resize((side_x, side_y), Image.Resampling.LANCZOS), (left, top))
        draw.text((left + side_x / 2, top + side_y + unit * 0.9), label, INK, _fitting_font(label, unit, side_x), "mm")
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255)


def _levels(picture_YX3: Tensor) -> np.ndarray:
    return picture_YX3[..., :3].detach().cpu().float().clamp(0, 1).numpy()


def _fitting_font(label: str, size: float, room: float) -> Font:
    """The font at this size, or smaller where the label would be wider than its picture."""
    font = load_font(size)
    length = font.getlength(label)
    return font if length <= room else load_font(max(6, size * room / length))


def _choose_columns(count: int, cell: float) -> int:
    """Pictures in a row of cells of this width / height: a sheet near ASPECT with few empty places."""

    def cost(columns: int) -> float:
        rows = -(-count // columns)
        return abs(math.log(cell * columns / rows / ASPECT)) + (rows * columns - count) / columns

    return min(range(1, count + 1), key=cost)
