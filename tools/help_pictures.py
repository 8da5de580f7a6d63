"""Make the pictures of the help pages, `nodes/web/docs/NODE.jpg`, on the miniature in a real ComfyUI.

    .venv/bin/python -m tools.help_pictures [NODE ...]

Pictures of nodes as the page draws them come from `tools.page_pictures`. All are small: a help page stands in a panel
of 300 to 500 pixels.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from . import workflow
from .client import Client
from .errors import ToolError
from .host import ROOT, ensure
from .serve import PHOTOGRAPH, furnish
from .server import Server
from .sheet import Cell, strip
from .signals import end_on_signals
from .template_plan import Plan, models, pair, picture, text, two, variation
from .tour import BAND, FIRST, OBJECT, SECOND

DOCS = ROOT / "nodes" / "web" / "docs"
STEPS, WIDEST = 10, 480
FITS: dict[str, dict[str, Any]] = {
    "stretch": {"fit": "stretch"},
    "crop": {"fit": "crop", "fit.position": "center"},
    "pad": {"fit": "pad"},
    "native": {"fit": "native"},
    "tiles": {"fit": "tiles", "fit.rows": 2, "fit.columns": 2, "fit.token_budget": 1024},
}
RATIOS = ("9:21", "9:16", "2:3", "1:1", "3:2", "16:9", "21:9")


def run(client: Client, graph: workflow.Workflow, kind: str = "SaveImage", seed: int = 3) -> list[Image.Image]:
    """The pictures that the nodes of a kind show or save."""
    graph = workflow.set_seed(graph, seed)
    outputs = client.run(graph).outputs
    shown = [image for key in outputs if graph[key]["class_type"] == kind for image in outputs[key].get("images", [])]
    return [Image.open(io.BytesIO(client.fetch(image))).convert("RGB") for image in shown]


def reference(path: Path, caption: str = "reference") -> Cell:
    return Cell(Image.open(path), caption)


def apply(client: Client) -> Image.Image:
    """Strength, across the band where the prompt begins to win."""
    cells = [reference(FIRST)]
    for strength in BAND:
        made = run(client, variation(OBJECT, strength=strength, steps=STEPS).api())
        cells.append(Cell(made[0], f"{strength:g}"))
    return strip([cells[:3], cells[3:]], 112)


def encode(client: Client) -> Image.Image:
    """What the tower sees with each fit, as the node shows it."""
    name = client.upload(PHOTOGRAPH)
    cells = [Cell(Image.open(PHOTOGRAPH), "the picture")]
    for fit, inputs in FITS.items():
        graph = workflow.set_inputs(variation(steps=1).api(), "LoadImage", image=name)
        node = next(node for node in graph.values() if node["class_type"] == "ReduxEncode")
        node["inputs"] |= inputs
        cells.append(Cell(run(client, graph, "ReduxEncode")[0], fit))
    return strip([cells[:3], cells[3:]], 140)


def influence(client: Client) -> Image.Image:
    plan = two("side by side, striped blue background", {}, {})
    plan.add("map", "ReduxInfluence", "Influence", (5, 1), conditioning=("apply2", 0), images=("decode", 0))
    return run(client, steps(plan), "ReduxInfluence")[0]


def steps(plan: Plan) -> workflow.Workflow:
    return workflow.set_inputs(plan.api(), "KSampler", steps=STEPS)


def keep(client: Client) -> Image.Image:
    cells = []
    for quality in ("exact", "close", "fast"):
        plan = two("side by side", {}, {})
        kept = plan.add("keep", "ReduxKeep", "Keep References", (3, 1), conditioning=("apply2", 0), quality=quality)
        plan.nodes["sample"].inputs["positive"] = kept
        cells.append(Cell(run(client, plan.api())[0], quality))
    return strip([cells], 128)


def mix(client: Client) -> Image.Image:
    cells = [reference(FIRST, "1"), reference(SECOND, "2")]
    for method in ("join", "average", "norm average", "slerp"):
        plan, conditioning, tokens = pair("")
        grown = {f"tokens.reference_{number}": given for number, given in enumerate(tokens)}
        mixed = plan.add("mix", "ReduxMix", "Mix References", (2, 0), **grown, method=method, weights="1, 1")
        plan.add("apply", "ReduxApply", "Apply Redux", (3, 0), conditioning=conditioning, tokens=mixed, strength=1.0)
        picture(plan, ("apply", 0), 4)
        cells.append(Cell(run(client, steps(plan))[0], method))
    return strip([cells[:3], cells[3:]], 112)


def pool(client: Client) -> Image.Image:
    rows = []
    for normalize in (True, False):
        cells = []
        for side in (8, 4, 2):
            plan = variation(steps=STEPS, normalize=normalize)
            pooled = plan.add("pool", "ReduxPool", "Pool Reference", (2, 1), tokens=("encode", 0), rows=side,
                              columns=side)  # fmt: skip
            plan.nodes["apply"].inputs["tokens"] = pooled
            word = "" if normalize else ", off"
            cells.append(Cell(run(client, plan.api())[0], f"{side} x {side}{word}" if side < 8 else "whole"))
        rows.append(cells)
    return strip(rows, 104)


def regions(client: Client) -> Image.Image:
    cells = []
    for layout in ("left, right", "top, bottom"):
        plan = two("", {"region": ("regions", 0)}, {"region": ("regions", 1)})
        plan.add("regions", "ReduxRegions", "Regions", (2, 1), layout=layout)
        cells.append(Cell(run(client, steps(plan))[0], layout))
    return strip([[reference(FIRST, "1"), reference(SECOND, "2")], cells], 112)


def sweep(client: Client) -> Image.Image:
    plan = variation(OBJECT, steps=STEPS)
    given = {"conditioning": ("prompt", 0), "tokens": ("encode", 0), "latent": ("size", 0)}
    values = ", ".join(f"{strength:g}" for strength in BAND)
    swept = plan.add("apply", "ReduxSweep", "Redux Sweep", (2, 0), **given, values=values, what="strength")
    plan.nodes["sample"].inputs |= {"positive": swept, "latent_image": ("apply", 1)}
    plan.add("sheet", "ReduxSweepSheet", "Sheet", (5, 1), images=("decode", 0), labels=("apply", 2), columns=3)
    sheet = run(client, plan.api(), "ReduxSweepSheet")[0]
    return sheet.resize((sheet.width * 400 // sheet.width, sheet.height * 400 // sheet.width), Image.Resampling.LANCZOS)


def words(client: Client) -> Image.Image:
    prompts = {
        "red apple": "large red apple",
        "book, flat style": "large book, flat style",
        "house, striped": "large house, striped blue background",
        "star, left": "star, left",
    }
    cells = []
    for word, prompt in prompts.items():
        plan = Plan()
        models(plan)
        picture(plan, text(plan, prompt), 3)
        plan.nodes.pop("redux")
        cells.append(Cell(run(client, steps(plan))[0], word))
    return strip([cells[:2], cells[2:]], 128)


def size(client: Client) -> Image.Image:
    """The outlines of sizes of one megapixel, to scale."""
    sheet = Image.new("RGB", (560, 118), "white")
    draw, x = ImageDraw.Draw(sheet), 6
    for ratio in RATIOS:
        graph = {"1": {"class_type": "ReduxSize", "_meta": {"title": ""}, "inputs":
                       {"aspect_ratio": ratio, "megapixels": 1.0, "batch_size": 1}}}  # fmt: skip
        width, height = measure(client, graph)
        box = x, 92 - height / 24, x + width / 24, 92
        draw.rectangle(box, fill="gainsboro", outline="black")
        draw.text((x + width / 48, 98), ratio, "black", anchor="mt")
        x += round(width / 24) + 8
    return sheet.crop((0, 0, x, 118))


def measure(client: Client, graph: dict[str, Any]) -> tuple[int, int]:
    """Width and height that a FLUX Image Size gives, from a mask of that size."""
    graph["2"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": ["1", 1], "height": ["1", 2]}}
    graph["3"] = {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}}
    graph["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
    return run(client, graph, "PreviewImage")[0].size


def save_image(client: Client) -> Image.Image:
    """One photograph in the three formats, a part of it at its own size, with the sizes of the files."""
    name, cells = client.upload(PHOTOGRAPH), []
    for kind, quality in (("webp", 90), ("webp", 50), ("jpg", 90), ("png", 90)):
        graph = {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "ReduxSaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "help",
                                                             "format": kind, "quality": quality}},
        }  # fmt: skip
        content = client.fetch(client.run(graph).images[0])
        saved = Image.open(io.BytesIO(content)).convert("RGB")
        left, top = saved.width // 2 - 80, saved.height // 2 - 80
        label = kind if kind == "png" else f"{kind} {quality}"
        cells.append(Cell(saved.crop((left, top, left + 112, top + 112)), f"{label}: {len(content) / 1024:.0f} KB"))
    return strip([cells[:2], cells[2:]], 128)


PICTURES: dict[str, Callable[[Client], Image.Image]] = {
    "ReduxApply": apply,
    "ReduxEncode": encode,
    "ReduxInfluence": influence,
    "ReduxKeep": keep,
    "ReduxMiniatureText": words,
    "ReduxMix": mix,
    "ReduxPool": pool,
    "ReduxRegions": regions,
    "ReduxSaveImage": save_image,
    "ReduxSize": size,
    "ReduxSweep": sweep,
}


def make_all(url: str, names: list[str], folder: Path) -> None:
    client = Client(url)
    for name in names:
        target = folder / f"{name}.jpg"
        shown = PICTURES[name](client)
        shown.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
        shown.save(target, quality=85, optimize=True)
        print(target, f"{target.stat().st_size // 1024} KB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(PICTURES), help="of nodes")
    parser.add_argument("--url", help="of a running `make serve`, instead of one of its own")
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    end_on_signals()
    if args.url:
        make_all(args.url, args.names, args.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        furnish(Path(folder))
        with Server(ensure(), Path(folder)) as server:
            make_all(server.url, args.names, args.output)


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
