"""Contact sheets: rows of pictures with captions, to be understood at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

INK, GREY, PAPER, RULE = (24, 24, 27), (113, 113, 122), (255, 255, 255), (228, 228, 231)
MARGIN, GAP, SIDE = 32, 12, 224

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """A picture and a short word under it, `span` columns wide; without a picture the place stays empty."""

    image: Image.Image | None
    caption: str = ""
    span: int = 1


@dataclass(frozen=True)
class Row:
    """Pictures that belong together; `caption` stands to their left and may hold several lines."""

    caption: str
    cells: Sequence[Cell] = field(default_factory=tuple)


def contact_sheet(rows: Sequence[Row], title: str, note: str = "", side: int = SIDE) -> Image.Image:
    """Draw rows of cells; every picture is fitted into its columns of `side` pixels, its shape kept.

    Raises:
        ValueError: there is no row with a cell.
    """
    columns = max((sum(cell.span for cell in row.cells) for row in rows), default=0)
    if not columns:
        raise ValueError("A contact sheet needs at least one picture.")
    big, normal, small = _font(26), _font(17), _font(14)
    labels = [_wrap(row.caption, normal, 240) for row in rows]
    label_width = max(int(normal.getlength(line)) for text in labels for line in text.split("\n")) + 2 * GAP
    foot = 26 if any(cell.caption for row in rows for cell in row.cells) else 0
    width = 2 * MARGIN + label_width + columns * (side + GAP) - GAP
    note = _wrap(note, small, width - 2 * MARGIN)
    top = MARGIN + 40 + (20 * (note.count("\n") + 1) if note else 0) + GAP
    sheet = Image.new("RGB", (width, top + len(rows) * (side + foot + GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 6), title, INK, big)
    if note:
        draw.multiline_text((MARGIN, MARGIN + 34), note, GREY, small, spacing=5)
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + index * (side + foot + GAP)
        draw.line((MARGIN, y - GAP // 2, width - MARGIN, y - GAP // 2), RULE)
        draw.multiline_text((MARGIN, y + side / 2), label, INK, normal, anchor="lm", spacing=6)
        x = MARGIN + label_width
        for cell in row.cells:
            _draw_cell(sheet, draw, cell, (x, y), side, small)
            x += cell.span * (side + GAP)
    return sheet


def _draw_cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, corner: tuple[int, int], side: int, font: Font
) -> None:
    x, y = corner
    room = cell.span * (side + GAP) - GAP
    if cell.image is not None:
        scale = min(room / cell.image.width, side / cell.image.height)
        size = max(1, round(cell.image.width * scale)), max(1, round(cell.image.height * scale))
        picture = cell.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        sheet.paste(picture, (x + (room - size[0]) // 2, y + (side - size[1]) // 2))
    if cell.caption:
        draw.text((x + room / 2, y + side + 4), cell.caption, GREY, font, anchor="mt")


def _wrap(text: str, font: Font, width: float) -> str:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
        lines.append(line)
    return "\n".join(lines)


def _font(size: int) -> Font:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def strip(rows: Sequence[Sequence[Cell]], side: int = 112) -> Image.Image:
    """Rows of pictures with a word under each and nothing else, small enough for a help page or a page of text."""
    font, foot, gap = _font(max(11, side // 9)), max(18, side // 6), 6
    columns = max(sum(cell.span for cell in row) for row in rows)
    step = side + foot + gap
    sheet = Image.new("RGB", (columns * (side + gap) - gap, len(rows) * step - gap), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        x = 0
        for cell in row:
            room = cell.span * (side + gap) - gap
            if cell.image is not None:
                scale = min(room / cell.image.width, side / cell.image.height)
                size = max(1, round(cell.image.width * scale)), max(1, round(cell.image.height * scale))
                picture = cell.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
                sheet.paste(picture, (x + (room - size[0]) // 2, index * step + (side - size[1]) // 2))
            draw.text((x + room / 2, index * step + side + foot * 0.72), cell.caption, INK, font, anchor="ms")
            x += room + gap
    return sheet
