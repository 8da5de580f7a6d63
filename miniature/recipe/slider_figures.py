"""The pictures of `miniature.recipe.slider`: progress against strength, and a sheet of some cases."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from .sheet import tile
from .slider_cases import STRENGTHS, WAYS, Cases

COLOURS = ("firebrick", "darkorange", "seagreen", "slateblue")
SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def draw(figures: dict[str, Any], judged: list[Cases], folder: Path) -> None:
    """Write slider.png and slider.jpg into a folder."""
    plot(figures, folder / "slider.png")
    chosen = [cases for cases in judged if cases.kind.tokens == 64 and cases.kind.prompt == "short"]
    tile([row for cases in chosen for row in rows_of(cases)]).save(folder / "slider.jpg", quality=85)


def rows_of(cases: Cases) -> list[tuple[str, torch.Tensor]]:
    """A row for each way, of the case whose two ends differ most."""
    index = int(cases.apart.argmax())
    pictures = cases.pictures_CV[index]
    levels = cases.kind.levels
    rows = []
    for number, way in enumerate(WAYS):
        columns = [1 + number * len(STRENGTHS) + STRENGTHS.index(strength) for strength in SHOWN]
        caption = f"{way}, {levels['references']} ref., {levels['region']}"
        rows.append((caption, pictures[[0, *columns, -1]]))
    return rows


def plot(figures: dict[str, Any], path: Path) -> None:
    """Two panels, drawn at twice their size."""
    size, margin = 640, 90
    canvas = Image.new("RGB", (2 * (size + margin) + margin, size + 2 * margin + 40), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(24)
    grid = [0.0, *figures["strengths"], 1.0]
    for panel, measure in enumerate(("pixels", "judge")):
        left, top = margin + panel * (size + margin), margin

        def place(x: float, y: float, left: int = left, top: int = top) -> tuple[float, float]:
            return left + x * size, top + (1 - y) * size

        pen.rectangle((*place(0, 1), *place(1, 0)), outline="black", width=2)
        pen.line((place(0, 0), place(1, 1)), fill="lightgray", width=3)
        pen.text((left, top - 40), f"{measure}, {figures['cases']} cases", "black", font)
        for tick in (0, 0.25, 0.5, 0.75, 1):
            pen.text((left + tick * size - 12, top + size + 8), f"{tick:g}", "black", font)
            pen.text((left - 60, top + (1 - tick) * size - 14), f"{tick:g}", "black", font)
        for number, (way, entry) in enumerate(figures["ways"].items()):
            progress = [0.0, *entry[measure]["progress"], 1.0]
            points = [place(x, y) for x, y in zip(grid, progress, strict=True)]
            pen.line(points, fill=COLOURS[number], width=5, joint="curve")
            label = f"{way}, {entry['cases']} cases" if "cases" in entry else way
            pen.text((left + size * 0.36, top + size - 40 - 34 * number), label, COLOURS[number], font)
    pen.text(
        (margin, margin + size + 50), "strength (across), from the text's picture to plain Redux (up)", "black", font
    )
    small = canvas.resize((canvas.width // 2, canvas.height // 2), Image.Resampling.LANCZOS)
    small.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the curves of a slider.json again.")
    parser.add_argument("figures", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    plot(json.loads(arguments.figures.read_text("ascii")), arguments.picture)


if __name__ == "__main__":
    main()
