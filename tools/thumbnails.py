"""Make the pictures of the templates, `workflows/NAME.jpg`, by running each template's graph on the miniature.

    .venv/bin/python -m tools.thumbnails [NAME ...]

The template browser asks for a JPEG of the template's name. Each shows the result, the references in the corners, and a
word for what the template is about.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from . import workflow
from .client import Client
from .errors import ToolError
from .host import ROOT, ensure
from .serve import furnish
from .server import Server
from .signals import end_on_signals
from .template_graphs import PLANS
from .template_notes import TITLES
from .template_plan import GHOST, UMBRELLA

SIDE, INSET, BORDER = 512, 140, 5
REFERENCES = {
    name: ROOT / "miniature" / "references" / file for name, file in ((GHOST, "first.png"), (UMBRELLA, "second.png"))
}
WORDS = {"variation": "variation", "restyle": "restyle", "part": "one part", "mix": "mix", "regions": "left | right",
         "influence": "where?", "sweep": "0 ... 1", "kontext": "needs Kontext", "controlnet": "needs a ControlNet",
         "batch": "1 | 2", "schnell": "4 steps", "inpaint": "inpaint", "upscale": "2 x",
         "saved": "save", "finish": "size, WebP", "negative": "not this"}  # fmt: skip

WHOLE = ("influence", "sweep")  # what they save is a sheet already


def make(client: Client, name: str) -> Image.Image:
    """What the template saves, with its references and its word."""
    graph = workflow.set_seed(PLANS[name]().api(), 7 + list(TITLES).index(name))
    sheet_of = next((key for key, node in graph.items() if node["class_type"] == "ReduxInfluence"), None)
    if sheet_of:  # which shows itself, and saves nothing
        graph["sheet"] = {"class_type": "SaveImage", "inputs": {"images": [sheet_of, 0], "filename_prefix": "sheet"}}
    images = [image for image in client.run(graph).images if not sheet_of or image["filename"].startswith("sheet")]
    pictures = [Image.open(io.BytesIO(client.fetch(image))).convert("RGB") for image in images]
    whole = name in WHOLE
    sheet = _fit(pictures[0]) if whole else _beside([_fit(picture) for picture in pictures])
    if not whole:
        loaded = [node["inputs"]["image"] for node in graph.values() if node["class_type"] == "LoadImage"]
        for index, image in enumerate(loaded):
            with Image.open(REFERENCES[image]) as reference:
                small = reference.convert("RGB").resize((INSET, INSET), Image.Resampling.LANCZOS)
            inset = ImageOps.expand(small, BORDER, "white")
            sheet.paste(inset, ((SIDE - inset.width) * index, SIDE - inset.height))
    _write(sheet, WORDS[name])
    return sheet


def _fit(picture: Image.Image) -> Image.Image:
    """A picture on a dark square, whole."""
    square = Image.new("RGB", (SIDE, SIDE), (24, 28, 31))
    whole = ImageOps.contain(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
    square.paste(whole, ((SIDE - whole.width) // 2, (SIDE - whole.height) // 2))
    return square


def _write(sheet: Image.Image, word: str) -> None:
    """A word in the upper left corner."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(44)
    left, top, right, bottom = draw.textbbox((20, 14), word, font=font)
    draw.rectangle((0, 0, right + 20, bottom + 16), fill=(24, 28, 31))
    draw.text((20, 14), word, font=font, fill="white")


def _beside(pictures: list[Image.Image]) -> Image.Image:
    """The middles of the pictures of a batch, side by side; one picture is whole."""
    width = SIDE // len(pictures)
    sheet = Image.new("RGB", (SIDE, SIDE))
    for index, picture in enumerate(pictures):
        left = (SIDE - width) // 2
        sheet.paste(picture.crop((left, 0, left + width, SIDE)), (index * width, 0))
    return sheet


def make_all(url: str, names: list[str]) -> None:
    for name in names:
        target = ROOT / "workflows" / f"{TITLES[name]}.jpg"
        make(Client(url), name).save(target, quality=88)
        print(target.relative_to(ROOT), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(TITLES), help="keys of template_graphs.PLANS")
    parser.add_argument("--url", help="of a running `make serve`, instead of one of its own")
    args = parser.parse_args()
    end_on_signals()
    if args.url:
        make_all(args.url, args.names)
        return
    with tempfile.TemporaryDirectory() as folder:
        furnish(Path(folder))
        with Server(ensure(), Path(folder)) as server:
            make_all(server.url, args.names)


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
