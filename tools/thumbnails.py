"""Make the pictures of the templates, `workflows/NAME.jpg`, by running each template's workflow on the miniature.

    .venv/bin/python -m tools.thumbnails [NAME ...]

The template browser asks for a JPEG of the template's name. Each shows the result, with the reference in a corner.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from miniature.install import install

from . import tour, workflow
from .client import Client
from .errors import ToolError
from .host import ROOT, ensure
from .server import Server, end_on_signals
from .template_notes import TITLES

SIDE, INSET, BORDER = 512, 168, 6
PROMPTS = {
    "restyle_with_a_prompt": "flat style, striped pink background",
    "two_references_in_two_regions": "side by side",
    "mix_two_references": "side by side",
    "save_reference_and_conditioning": "dotted, large, center",
}
STRENGTHS = {"restyle_with_a_prompt": 0.8}  # at the template's 0.3 the miniature loses the face
INSTEAD = {"core_loaders": "image_variation"}  # ComfyUI's own loader does not know the miniature's tower
BEFORE = {"load_reference_and_conditioning": "save_reference_and_conditioning"}


def make(client: Client, name: str, names: tuple[str, str]) -> Image.Image:
    """What the workflow saves, with its references."""
    if name in BEFORE:
        client.run(tour.graph_of(BEFORE[name], names))
    graph = tour.say(tour.graph_of(INSTEAD.get(name, name), names), PROMPTS.get(name, ""))
    if name in STRENGTHS:
        graph = workflow.set_inputs(graph, "ReduxApply", strength=STRENGTHS[name])
    graph = workflow.set_seed(graph, 1 + list(TITLES).index(name))
    images = [image for image in client.run(graph).images if "influence" not in image["filename"]]
    pictures = [Image.open(io.BytesIO(client.fetch(image))).convert("RGB") for image in images]
    sheet = _beside([picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for picture in pictures])
    loaders = [node for node in graph.values() if node["class_type"] == "LoadImage"]
    for index, path in enumerate((tour.FIRST, tour.SECOND)[: len(loaders)]):
        with Image.open(path) as reference:
            small = reference.convert("RGB").resize((INSET, INSET), Image.Resampling.LANCZOS)
        inset = ImageOps.expand(small, BORDER, "white")
        left = 0 if index == 0 else SIDE - inset.width
        sheet.paste(inset, (left, SIDE - inset.height))
    return sheet


def _beside(pictures: list[Image.Image]) -> Image.Image:
    """The middles of the pictures of a batch, side by side; one picture is whole."""
    width = SIDE // len(pictures)
    sheet = Image.new("RGB", (SIDE, SIDE))
    for index, picture in enumerate(pictures):
        left = (SIDE - width) // 2
        sheet.paste(picture.crop((left, 0, left + width, SIDE)), (index * width, 0))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(TITLES), help="API files without .json")
    args = parser.parse_args()
    end_on_signals()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "models").mkdir()
        install(base / "models")
        with Server(ensure(), base) as server:
            client = Client(server.url)
            names = client.upload(tour.FIRST), client.upload(tour.SECOND)
            for name in args.names:
                target = ROOT / "workflows" / f"{TITLES[name]}.jpg"
                make(client, name, names).save(target, quality=90)
                print(target.relative_to(ROOT))


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
