"""Make the pictures of README.md: docs/core.jpg, docs/strength.jpg, docs/regions.jpg and
docs/influence.jpg.

    .venv/bin/python -m tools.readme_pictures [NAME ...]

All are made on the miniature in a real ComfyUI, at one seed each. `tools.page_pictures nodes` makes docs/nodes.png, and
`make demo` the contact sheet.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from .client import Client
from .errors import ToolError
from .help_pictures import STEPS, influence, reference, run, steps
from .host import ROOT, ensure
from .serve import furnish
from .server import Server
from .sheet import Cell, Row, contact_sheet, strip
from .signals import end_on_signals
from .template_plan import Plan, two, variation
from .tour import FIRST, OBJECT, SECOND

DOCS = ROOT / "docs"
COMPARED = (1.0, 0.6, 0.5, 0.4, 0.2, 0.0)
STRIP = (0.0, 0.2, 0.4, 0.45, 0.5, 0.55, 0.6, 0.8, 1.0)
SEED = 3
WAYS = {
    "ComfyUI:\nApply Style Model,\nmultiply": "multiply",
    "ComfyUI:\nApply Style Model,\nattn_bias": "attn_bias",
    "Redux Control:\nApply Redux": "",
}


def core(client: Client) -> Image.Image:
    """ComfyUI's own Apply Style Model in both its ways, and Apply Redux, at the same numbers."""
    rows = []
    for title, kind in WAYS.items():
        cells = []
        for strength in COMPARED:
            plan = by_core(kind, strength) if kind else variation(OBJECT, strength=strength, steps=STEPS)
            cells.append(Cell(run(client, plan.api(), seed=SEED)[0], f"{strength:g}"))
        rows.append(Row(title, cells))
    note = (
        f"One seed, the prompt \u201c{OBJECT}\u201d, a ghost as reference; plain Redux on the left, none on the right."
    )
    return contact_sheet(rows, "The same numbers, three ways", note, side=128)


def by_core(kind: str, strength: float) -> Plan:
    """The graph of `variation` with ComfyUI's own nodes between picture and sampler."""
    plan = variation(OBJECT, steps=STEPS)
    for key in ("redux", "encode", "apply"):
        del plan.nodes[key]
    plan.groups.clear()
    plan.add("core", "CoreMiniature", "The miniature, as core loads it", (0, 1))
    plan.add("vision", "CLIPVisionEncode", "CLIP Vision Encode", (1, 1), clip_vision=("core", 0), image=("image", 0),
             crop="none")  # fmt: skip
    positive = plan.add("apply", "StyleModelApply", "Apply Style Model", (2, 0), conditioning=("prompt", 0),
                        style_model=("core", 1), clip_vision_output=("vision", 0), strength=strength,
                        strength_type=kind)  # fmt: skip
    plan.nodes["sample"].inputs["positive"] = positive
    return plan


def strength(client: Client) -> Image.Image:
    cells = [reference(FIRST)]
    for value in STRIP:
        cells.append(
            Cell(run(client, variation(OBJECT, strength=value, steps=STEPS).api(), seed=SEED)[0], f"{value:g}")
        )
    return strip([cells], 116)


def regions(client: Client) -> Image.Image:
    """Two references, each in a region of its own: halves, and boxes drawn by hand."""
    cells = [reference(FIRST, "reference 1"), reference(SECOND, "reference 2")]
    layouts: dict[str, dict[str, Any]] = {
        "left | right": {"layout": "left, right"},
        "right | left": {"layout": "drawn boxes", "boxes": "50, 0, 50, 100\n0, 0, 50, 100"},
        "above | below": {"layout": "top, bottom"},
    }
    for caption, chosen in layouts.items():
        prompt = "stacked" if "above" in caption else "side by side"
        plan = two(prompt, {"region": ("regions", 0)}, {"region": ("regions", 1)})
        plan.add("regions", "ReduxRegions", "Regions", (2, 1), **chosen)
        cells.append(Cell(run(client, steps(plan), seed=SEED)[0], caption))
    return strip([cells], 160)


PICTURES: dict[str, tuple[str, Callable[[Client], Image.Image]]] = {
    "core": ("core.jpg", core),
    "strength": ("strength.jpg", strength),
    "regions": ("regions.jpg", regions),
    "influence": ("influence.jpg", influence),
}


def make_all(url: str, names: list[str], folder: Path) -> None:
    for name in names:
        file, make = PICTURES[name]
        make(Client(url)).save(folder / file, quality=88, optimize=True)
        print(folder / file, f"{(folder / file).stat().st_size // 1024} KB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(PICTURES))
    parser.add_argument("--output", type=Path, default=DOCS)
    args = parser.parse_args()
    end_on_signals()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        furnish(base)
        (base / "custom_nodes").mkdir(exist_ok=True)
        shutil.copy(Path(__file__).with_name("core_miniature.py"), base / "custom_nodes")
        with Server(ensure(), base) as server:
            make_all(server.url, args.names, args.output)


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
