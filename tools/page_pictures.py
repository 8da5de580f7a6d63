"""Pictures of nodes as ComfyUI's page draws them, for the help pages and the README: `NAME.png` for each of SCENES.

    .venv/bin/python -m tools.page_pictures [NAME ...]      # needs Chromium

Each scene is a small graph, laid out by hand, run where it has something to show, and cut out of the real page at its
own size, where text stays readable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .browser import PROGRAM, Browser
from .errors import ToolError
from .help_pictures import DOCS
from .host import ROOT, ensure
from .serve import furnish
from .server import Server
from .signals import end_on_signals
from .template_plan import GHOST

WINDOW, CORNER, MARGIN = (1700, 1250), (330, 260), 12
TITLE = 30
# Nodes are [type, left, top, width, height, widget values, title]; wires are [from, output, to, input].
BUILD = """(async (scene) => {
  app.graph.clear();
  const setting = app.extensionManager.setting;
  await setting.set("Comfy.Minimap.Visible", false);
  await setting.set("Comfy.NodeBadge.NodeSourceBadgeMode", "None");
  const made = scene.nodes.map(([type, left, top, width, height, values, title]) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [left, top];
    if (title) node.title = title;
    for (const widget of node.widgets ?? []) {
      if (!(widget.name in values)) continue;
      widget.value = values[widget.name];
      widget.callback?.(widget.value, app.canvas, node);
    }
    node.setSize([width, height || node.computeSize()[1]]);
    return node;
  });
  for (const [from, output, to, input] of scene.wires)
    made[from].connect(output, made[to], made[to].inputs.findIndex(({name}) => name === input));
  app.canvas.deselectAll?.();
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [scene.corner[0], scene.corner[1]];
  app.canvas.setDirty(true, true);
  window.reduxMade = made;
})(%s)"""
RUN = """(() => {
  window.reduxEnd = null;
  for (const kind of ["execution_success", "execution_error"])
    app.api.addEventListener(kind, () => { window.reduxEnd = kind; }, {once: true});
  const empty = {method: "POST", body: JSON.stringify({unload_models: true, free_memory: true})};
  return app.api.fetchApi("/free", empty).then(() => app.queuePrompt(0)); // nothing is taken from an earlier run
})()"""
HIDE = """(() => {
  for (const node of window.reduxMade.splice(%d)) app.graph.remove(node);
  app.canvas.setDirty(true, true);
})()"""
PREVIEW = "window.reduxMade.filter(({type}) => type === 'ReduxEncode').every(({imgs}) => imgs?.[0]?.complete)"
BOXES = "window.reduxMade.map((node) => [...node.boundingRect])"


@dataclass
class Scene:
    """A graph, how many of its nodes are in the picture (the first ones), and whether it is run before."""

    nodes: list[list[Any]]
    wires: list[list[Any]] = field(default_factory=list)
    shown: int = 0
    run: bool = False
    folder: Path = DOCS


def node(kind: str, left: int, top: int, width: int, height: int = 0, title: str = "", **values: Any) -> list[Any]:
    return [kind, left, top, width, height, values, title]


def three() -> Scene:
    """The nodes of the pack that every graph has, and what makes them run, out of sight."""
    nodes = [
        node("ReduxLoader", 0, 0, 300, vision_name="automatic", redux_name="automatic"),
        node("ReduxEncode", 340, 0, 270, 400),
        node("ReduxApply", 650, 0, 300, strength=0.5),
        node("LoadImage", 0, 150, 300, 250, "Reference", image=GHOST),
        node("ReduxLoadFlux", -900, 700, 300),
        node("CLIPTextEncode", -500, 700, 300, 100, text="red apple, large, center"),
        node("CLIPTextEncode", -500, 900, 300, 100, text=""),
        node("ReduxSize", -900, 900, 300),
        node("KSampler", 1300, 0, 300, seed=1, steps=4, cfg=1.0, sampler_name="euler", scheduler="simple"),
        node("VAEDecode", 1700, 0, 200),
        node("PreviewImage", 2000, 0, 300, 300),
    ]
    wires = [[0, 0, 1, "redux"], [3, 0, 1, "image"], [1, 0, 2, "tokens"], [5, 0, 2, "conditioning"], [4, 1, 5, "clip"]]
    wires += [[4, 1, 6, "clip"], [4, 0, 7, "model"], [4, 0, 8, "model"], [2, 0, 8, "positive"], [6, 0, 8, "negative"]]
    wires += [[7, 0, 8, "latent_image"], [8, 0, 9, "samples"], [4, 2, 9, "vae"], [9, 0, 10, "images"]]
    return Scene(nodes, wires, 4, run=True, folder=ROOT / "docs")


def clip_vision() -> Scene:
    nodes = [
        node("StyleModelLoader", 0, 0, 230),
        node("CLIPVisionEncode", 0, 110, 230, crop="none"),
        node("ReduxFromClipVision", 270, 40, 240),
    ]
    return Scene(nodes, [[0, 0, 2, "style_model"], [1, 0, 2, "clip_vision_output"]])


def kontext() -> Scene:
    nodes = [
        node("ReferenceLatent", 0, 60, 200),
        node("ReduxWeighLatents", 240, 0, 280, strength=0.6),
    ]
    return Scene(nodes, [[0, 0, 1, "conditioning"]])


def regions() -> Scene:
    boxes = "5, 10, 40, 80\n55, 10, 40, 80"
    return Scene([node("ReduxRegions", 0, 0, 330, 470, layout="drawn boxes", boxes=boxes)])


def saving(first: str, second: str) -> Scene:
    return Scene([node(first, 0, 0, 330), node(second, 0, 130, 330, title="Next time: " + second.replace("Redux", ""))])


SCENES: dict[str, Callable[[], Scene]] = {
    "nodes": three,
    "ReduxLoader": lambda: Scene([node("ReduxLoader", 0, 0, 340, vision_name="automatic", redux_name="automatic")]),
    "ReduxLoadFlux": lambda: Scene([node("ReduxLoadFlux", 0, 0, 340)]),
    "ReduxCalibrate": lambda: Scene([node("ReduxCalibrate", 0, 0, 300, 560)]),
    "ReduxFromClipVision": clip_vision,
    "ReduxWeighLatents": kontext,
    "ReduxRegions-node": regions,
    "ReduxSafetyCheck": lambda: Scene([node("ReduxSafetyCheck", 0, 0, 300, threshold=0.8, action="blank")]),
    "ReduxSaveTokens": lambda: saving("ReduxSaveTokens", "ReduxLoadTokens"),
    "ReduxSaveConditioning": lambda: saving("ReduxSaveConditioning", "ReduxLoadConditioning"),
}


async def photograph(url: str, names: list[str], output: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Browser(url, Path(folder) / "browser", WINDOW) as page:
            await page.started("ReduxLoadFlux")
            await asyncio.sleep(3)  # the page opens its templates, or a graph of its own, last
            await page.evaluate("""document.querySelector('button[aria-label="Close dialog"]')?.click()""")
            for name in names:
                scene = SCENES[name]()
                target = (output or scene.folder) / f"{name}.png"
                await shoot(page, scene, target)
                print(target, f"{target.stat().st_size // 1024} KB", flush=True)


async def shoot(page: Browser, scene: Scene, target: Path) -> None:
    left = min(box[1] for box in scene.nodes[: scene.shown or None])
    top = min(box[2] for box in scene.nodes[: scene.shown or None]) - TITLE
    corner = CORNER[0] - left, CORNER[1] - top
    await page.evaluate(BUILD % json.dumps({"nodes": scene.nodes, "wires": scene.wires, "corner": corner}))
    if scene.run:
        await page.evaluate(RUN)
        end = await page.until("window.reduxEnd", 120)
        if end != "execution_success":
            raise ToolError(f"The graph of {target.stem} did not run.")
        await page.until(PREVIEW, 60)  # it arrives a little later
        await page.evaluate(HIDE % scene.shown)
    await asyncio.sleep(2)  # pictures load, and the canvas is drawn once more
    boxes = await page.evaluate(BOXES)
    right, bottom = (max(box[side] + box[side + 2] for box in boxes) for side in (0, 1))
    x, y = CORNER[0] - MARGIN, CORNER[1] - MARGIN
    x0, y0 = await page.evaluate("(({x, y}) => [x, y])(app.canvas.canvas.getBoundingClientRect())")
    await page.screenshot(target, (x + x0, y + y0, right - left + 2 * MARGIN, bottom - top + 2 * MARGIN))
    picture = Image.open(target).convert("RGB")
    if not scene.run:  # flat colours
        picture = picture.quantize(64, dither=Image.Dither.NONE)
    picture.save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(SCENES))
    parser.add_argument("--url", help="of a running `make serve`, instead of one of its own")
    parser.add_argument("--output", type=Path, help="instead of the places where the pages look")
    args = parser.parse_args()
    if PROGRAM is None:
        raise ToolError("No Chromium is installed; chromium of the system's packages is needed.")
    end_on_signals()
    if args.url:
        asyncio.run(photograph(args.url, args.names, args.output))
        return
    with tempfile.TemporaryDirectory() as folder:
        furnish(Path(folder))
        with Server(ensure(), Path(folder)) as server:
            asyncio.run(photograph(server.url, args.names, args.output))


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
