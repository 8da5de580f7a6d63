"""Make the templates of `workflows/` from the API files of `workflows/api/`, with ComfyUI's real page.

    .venv/bin/python -m tools.templates [NAME ...]

The page itself loads the API file and writes the workflow, so that templates are what ComfyUI writes; positions, model
links and the note are added here. Needs Chromium and the Python package playwright; users need neither. Pictures of
the graphs go to output/templates, to be looked at.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from . import checkpoints, tour, workflow
from .errors import ToolError
from .host import ROOT, ensure
from .server import Server, end_on_signals
from .template_notes import MODELS, NOTES, TITLES

WORKFLOWS = ROOT / "workflows"
PICTURES = ROOT / "output" / "templates"
COLUMN_GAP, ROW_GAP, TOP = 60, 70, 60
NOTE_WIDTH = 400
OLDEST_HOST = "0.18.0"

# Nodes that show a picture, with the height that leaves room for it.
LOAD = """async ([graph, name]) => {
    const PICTURES = { LoadImage: 314, SaveImage: 314, ReduxSaveImage: 360, ReduxEncode: 420 };
    await app.loadApiJson(graph, name);
    await new Promise(done => setTimeout(done, 500));
    return app.graph._nodes.map(node => {
        const least = node.computeSize();
        const height = PICTURES[node.type] ?? least[1];
        node.setSize([Math.max(node.size[0], least[0], 270), height]);
        return [String(node.id), [...node.size]];
    });
}"""

PLACE = """async ([positions, note]) => {
    for (const node of app.graph._nodes) if (positions[node.id]) node.pos = positions[node.id];
    const markdown = LiteGraph.createNode("MarkdownNote");
    app.graph.add(markdown);
    markdown.title = "About";
    markdown.widgets[0].value = note.text;
    markdown.pos = note.pos;
    markdown.setSize(note.size);
    app.graph.setDirtyCanvas(true, true);
    return app.graph.serialize();
}"""

SHOW = """() => {
    const canvas = app.canvas, boxes = app.graph._nodes.map(node => node.getBounding ? node.getBounding() : null);
    canvas.ds.fitToBounds
        ? canvas.ds.fitToBounds(boxes.reduce((a, b) => {
              const left = Math.min(a[0], b[0]), top = Math.min(a[1], b[1]);
              return [left, top, Math.max(a[0] + a[2], b[0] + b[2]) - left, Math.max(a[1] + a[3], b[1] + b[3]) - top];
          }), { zoom: 0.9 })
        : app.resetView();
    app.graph.setDirtyCanvas(true, true);
}"""


def columns(graph: workflow.Workflow) -> list[list[str]]:
    """Nodes by column: each as far left as its inputs allow, loaders moved right next to their first reader."""
    sources = {
        key: [value[0] for value in node["inputs"].values() if isinstance(value, list)] for key, node in graph.items()
    }
    depth: dict[str, int] = {}

    def of(key: str) -> int:
        if key not in depth:
            depth[key] = 1 + max((of(source) for source in sources[key]), default=-1)
        return depth[key]

    for key in graph:
        of(key)
    for key in sorted(graph, key=depth.__getitem__, reverse=True):
        readers = [depth[other] for other in graph if key in sources[other]]
        if readers and not sources[key]:
            depth[key] = min(readers) - 1
    return [[key for key in graph if depth[key] == column] for column in range(max(depth.values()) + 1)]


def place(graph: workflow.Workflow, sizes: dict[str, list[float]]) -> dict[str, list[float]]:
    """Positions of the nodes in columns; the first column stands at 0."""
    positions: dict[str, list[float]] = {}
    left = 0.0
    for column in columns(graph):
        top = float(TOP)
        for key in column:
            positions[key] = [left, top]
            top += sizes[key][1] + ROW_GAP
        left += max((sizes[key][0] for key in column), default=0) + COLUMN_GAP
    return positions


def finish(template: dict[str, Any], graph: workflow.Workflow) -> dict[str, Any]:
    """What the page does not know: an id of its own, and where the model files can be had."""
    template["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(graph, sort_keys=True)))
    template["revision"] = 0
    template["extra"] = {}
    template.pop("definitions", None)  # of subgraphs, of which there are none
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version is not None
    for node in template["nodes"]:
        ours = node["type"].startswith("Redux")
        node["properties"]["cnr_id"] = "redux-control" if ours else "comfy-core"
        node["properties"]["ver"] = version[1] if ours else OLDEST_HOST
        values = node.get("widgets_values") or []
        models = [MODELS[value] for value in values if isinstance(value, str) and value in MODELS]
        if models:
            node["properties"]["models"] = models
    return template


def make(page: Any, name: str) -> None:
    graph = workflow.set_inputs(workflow.read(WORKFLOWS / "api" / f"{name}.json"), "LoadImage", image="example.png")
    sizes = dict(page.evaluate(LOAD, [graph, name]))
    positions = place(graph, sizes)
    note = {"text": NOTES[name], "pos": [-NOTE_WIDTH - COLUMN_GAP, TOP], "size": [NOTE_WIDTH, 420]}
    template = finish(page.evaluate(PLACE, [positions, note]), graph)
    target = WORKFLOWS / f"{TITLES[name]}.json"
    target.write_text(json.dumps(template, indent=1) + "\n", "utf-8")
    page.evaluate(SHOW)
    page.wait_for_timeout(400)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")
    print(target.relative_to(ROOT))


def _furnish(base: Path) -> None:
    """Small files under the names that the workflows use, so that the page shows nothing as missing."""
    files = checkpoints.FileNames(
        clip_vision="sigclip_vision_patch14_384.safetensors",
        style_models="flux1-redux-dev.safetensors",
        diffusion_models="flux1-dev.safetensors",
        vae="ae.safetensors",
        text_encoders="redux-mini-words.safetensors",
    )
    checkpoints.write_checkpoints(base / "models", names=files)
    named = [(model["directory"], name) for name, model in MODELS.items()]
    for folder, name in (*named, *tour.NAMES.items()):
        (base / "models" / folder / name).touch()
    (base / "input").mkdir()
    shutil.copy(WORKFLOWS / "input" / "cat.jpg", base / "input" / "example.png")
    for kind in ("reference", "conditioning"):
        saved = base / "output" / "redux" / f"{kind}_00001_.safetensors"
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(TITLES), help="API files without .json")
    args = parser.parse_args()
    end_on_signals()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise ToolError("There is no Chromium on this machine; the templates are drawn by ComfyUI's real page.")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        base = Path(folder)
        _furnish(base)
        with Server(ensure(), base) as server:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 2200, "height": 1100})
            page.goto(server.url)
            page.wait_for_function("window.app && window.app.graph && window.LiteGraph", timeout=60_000)
            page.wait_for_timeout(3000)
            page.keyboard.press("Escape")
            for name in args.names:
                make(page, name)
            browser.close()


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
