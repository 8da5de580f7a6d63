"""An influence as a picture: one map for each source over the picture, with its mean share and a legend in numbers.

Shapes: S sources, y x x tokens; pictures are PIL images inside this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND, INK, FAINT = (24, 25, 29), (236, 236, 240), (150, 152, 162)
REFERENCES = ((240, 160, 60), (90, 175, 235), (235, 110, 160), (120, 205, 120), (180, 140, 240), (225, 215, 100))
SOURCES = {"text": (205, 210, 222), "image": (104, 110, 126)}
# Dark to bright, and readable without red and green.
HEAT = np.array([(46, 22, 110), (140, 32, 140), (222, 72, 88), (250, 160, 44), (252, 244, 150)], dtype=np.float32)
SHADE = 0.5  # the picture under a map is grey, and this bright
SHORTEST, LONGEST = 384, 768  # of the longer side of a map
GLANCE = 512  # the width of a sheet that is drawn while a picture is made
USUAL = 0.99  # the brightest colour is for the share that this part of the tokens stays below

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Sheet:
    """Where things stand: the picture in the upper left corner, as large as `span` x `span` maps, and maps around it.

    Attributes:
        tile: width and height of a map.
        unit: height of a line.
        columns: maps in a row.
        count: maps and the picture.
        span: 1, or more where the maps would leave a cell empty.
    """

    tile: tuple[int, int]
    columns: int
    count: int
    span: int = 1

    @property
    def unit(self) -> int:
        return max(1, self.tile[0] // 11)

    @property
    def cell(self) -> tuple[int, int]:
        return self.tile[0] + self.unit, self.tile[1] + 4 * self.unit

    @property
    def size(self) -> tuple[int, int]:
        rows = -(-(self.span**2 + self.count - 1) // self.columns)
        return self.columns * self.cell[0] + self.unit, rows * self.cell[1] + self.unit // 2

    def place(self, index: int) -> tuple[int, int]:
        """The upper left corner of a map (0 = the picture); its title stands above, its legend below."""
        row, column = divmod(index and self._free()[index - 1], self.columns)
        return self.unit + column * self.cell[0], 2 * self.unit + row * self.cell[1]

    def extent(self, index: int) -> tuple[int, int]:
        """Width and height of a map, or of the picture, which keeps its shape in the room of its cells."""
        if index or self.span == 1:
            return self.tile
        more = self.span - 1
        scale = min((side + more * cell) / side for side, cell in zip(self.tile, self.cell, strict=True))
        return round(self.tile[0] * scale), round(self.tile[1] * scale)

    def _free(self) -> list[int]:
        """Numbers of the cells that the picture leaves, row by row."""
        cells = range(self.span**2 + self.count - 1)
        return [cell for cell in cells if cell // self.columns >= self.span or cell % self.columns >= self.span]

    @classmethod
    def for_picture(cls, width: int, height: int, count: int) -> Sheet:
        """The arrangement without an empty cell that comes nearest to 3:2, with the picture as small as that allows."""
        scale = min(max(max(width, height), SHORTEST), LONGEST) / max(width, height)
        tile = max(1, round(width * scale)), max(1, round(height * scale))
        sheets = [
            cls(tile, columns, count, span)
            for span in range(1, count + 1)
            for columns in range(span, count + 1)
            if (cells := span**2 + count - 1) % columns == 0 and cells >= span * columns
        ]
        return min(sheets, key=lambda sheet: abs(math.log(sheet.size[0] / sheet.size[1] / 1.5)) + 0.2 * sheet.span)


def draw_influence(picture_YX3: Tensor, maps_Syx: Tensor, names: tuple[str, ...]) -> Tensor:
    """A sheet with the picture and a map for each source.

    The colours of each map run from 0 to the share that 99 of 100 tokens stay below, so that every map shows where its
    source acts. How much is said by the numbers, and by the bar under the picture, which is divided as attention is.

    Args:
        picture_YX3: values 0..1.
        maps_Syx: shares that sum to one over the sources.
        names: of the sources; none if no reference acted, which the sheet then says.

    Returns:
        [height, width, 3] in 0..1, fp32 on the CPU.
    """
    picture = Image.fromarray((picture_YX3.detach().cpu().float().clamp(0, 1).numpy() * 255).round().astype(np.uint8))
    sheet = Sheet.for_picture(*picture.size, len(names) + 1)
    tile = picture.resize(sheet.tile, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", sheet.size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    colors = _colors(names)
    shares = maps_Syx.mean(dim=(1, 2)).tolist()
    canvas.paste(picture.resize(sheet.extent(0), Image.Resampling.LANCZOS), sheet.place(0))
    _title(draw, sheet, 0, "picture" if names else "no reference acted", "")
    if names:
        _bar(draw, sheet, list(zip(shares, colors, strict=True)))
    for index, (name, color, share, map_yx) in enumerate(zip(names, colors, shares, maps_Syx, strict=True), 1):
        values_yx = map_yx.detach().cpu().float().numpy()
        top = float(np.quantile(values_yx, USUAL)) or float(values_yx.max())
        canvas.paste(_overlay(tile, values_yx / (top or 1.0)), sheet.place(index))
        _title(draw, sheet, index, name, percent(share), color)
        _legend(canvas, draw, sheet, index, top)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255)


def draw_glance(maps_Syx: Tensor, names: tuple[str, ...]) -> Image.Image:
    """The maps of the references alone, one or two in a row, quickly drawn and readable in a small place.

    Args:
        maps_Syx, names: as for `draw_influence`. An odd number of maps is made even by that of the text.
    """
    shown = [index for index, name in enumerate(names) if name not in SOURCES]
    if len(shown) > 1 and len(shown) % 2:
        shown.append(names.index("text"))
    columns = min(len(shown), 2)
    width = GLANCE // columns
    height = max(1, round(width * maps_Syx.shape[1] / maps_Syx.shape[2]))
    unit = GLANCE // 22
    canvas = Image.new("RGB", (GLANCE, len(shown) // columns * (height + 2 * unit)), BACKGROUND)
    draw, colors, grey = ImageDraw.Draw(canvas), _colors(names), Image.new("L", (width - unit, height), 90)
    for place, index in enumerate(shown):
        left, top = unit // 2 + place % columns * width, (place // columns * (height + 2 * unit)) + 2 * unit
        values_yx = maps_Syx[index].cpu().float().numpy()
        largest = float(np.quantile(values_yx, USUAL)) or float(values_yx.max()) or 1.0
        canvas.paste(_overlay(grey, values_yx / largest), (left, top))
        draw.rectangle((left, top - 1.5 * unit, left + unit // 2, top - unit // 2), colors[index])
        text = f"{names[index]}  {percent(float(values_yx.mean()))}"
        draw.text((left + unit, top - unit), text, INK, load_font(unit), anchor="lm")
    return canvas


def percent(share: float) -> str:
    """A share with three digits, e.g. 12.3 % or 0.0457 %."""
    if 0 < share < 1e-4:
        return "< 0.01 %"
    return f"{100 * share:.3g} %"


def _colors(names: tuple[str, ...]) -> list[Color]:
    return [SOURCES.get(name, REFERENCES[index % len(REFERENCES)]) for index, name in enumerate(names)]


def _overlay(picture: Image.Image, values_yx: np.ndarray) -> Image.Image:
    """The picture in grey with the map in colour; where the map is 0 there is no colour."""
    smooth = Image.fromarray(values_yx.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    values_YX = np.asarray(smooth).clip(0, 1)
    grey_YX = np.asarray(picture.convert("L"), dtype=np.float32) * SHADE
    return Image.fromarray(_heat(values_YX, grey_YX))


def _heat(values_YX: np.ndarray, grey_YX: np.ndarray) -> np.ndarray:
    """Colours of values 0..1 over a grey of 0..255 * SHADE."""
    stops = np.linspace(0, 1, len(HEAT))
    heat_YX3 = np.stack([np.interp(values_YX, stops, channel) for channel in HEAT.T], axis=-1)
    cover_YX1 = np.minimum(values_YX * 2, 1.0)[..., None]
    lit_YX3 = heat_YX3 * (0.5 + 0.5 * grey_YX / (255 * SHADE))[..., None]  # so that the picture stays visible
    return (lit_YX3 * cover_YX1 + grey_YX[..., None] * (1 - cover_YX1)).round().astype(np.uint8)


def _title(
    draw: ImageDraw.ImageDraw, sheet: Sheet, index: int, name: str, number: str, color: Color | None = None
) -> None:
    (left, top), unit = sheet.place(index), sheet.unit
    font, middle = load_font(unit), top - unit * 0.75
    if color is not None:
        draw.rounded_rectangle((left, middle - unit * 0.4, left + unit * 0.8, middle + unit * 0.4), unit * 0.2, color)
    start = left if color is None else left + unit * 1.2
    draw.text((start, middle), name, INK, font, anchor="lm")
    draw.text((left + sheet.extent(index)[0], middle), number, INK, font, anchor="rm")


def _legend(canvas: Image.Image, draw: ImageDraw.ImageDraw, sheet: Sheet, index: int, top: float) -> None:
    """The colours of a map over a grey like that of a picture, and what shares they stand for."""
    (left, upper), unit, width = sheet.place(index), sheet.unit, sheet.tile[0]
    upper += sheet.tile[1] + unit // 4
    ramp_1X = np.linspace(0, 1, width, dtype=np.float32)[None]
    ramp = Image.fromarray(_heat(ramp_1X, np.full_like(ramp_1X, 128 * SHADE))).resize((width, max(2, unit // 2)))
    canvas.paste(ramp, (left, upper))
    font, line = load_font(unit * 0.8), upper + unit * 0.75
    marks = ((left, "0", "la"), (left + width / 2, percent(top / 2), "ma"), (left + width, percent(top), "ra"))
    for x, text, anchor in marks if top else marks[:1]:
        draw.text((x, line), text, FAINT, font, anchor=anchor)


def _bar(draw: ImageDraw.ImageDraw, sheet: Sheet, shares: list[tuple[float, Color]]) -> None:
    """The mean attention, divided among the sources."""
    (left, upper), unit, (width, height) = sheet.place(0), sheet.unit, sheet.extent(0)
    upper += height + unit // 4
    start = 0.0
    for share, color in shares:
        edges = [left + round(edge * width) for edge in (start, start + share)]
        if edges[1] > edges[0]:
            draw.rectangle((edges[0], upper, edges[1] - 1, upper + max(1, unit // 2) - 1), color)
        start += share
    draw.text((left, upper + unit * 0.75), "mean attention", FAINT, load_font(unit * 0.8), anchor="la")


def load_font(size: float) -> Font:
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # Pillow before 10.1, or built without FreeType: one small font
        return ImageFont.load_default()
