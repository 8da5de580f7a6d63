"""Every template in ComfyUI's real page, on a machine with only the miniature: open it, press Run, get a picture.

The templates are opened by clicks, as an artist opens them, at 1440 x 800, and run; then, in Nodes 2.0, opened and run
in app mode. REDUX_SCREENSHOTS names a folder for pictures of what the page shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import browser, host
from tools.client import Client
from tools.serve import furnish
from tools.server import Server

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")

ROOT = Path(__file__).resolve().parents[2]
NAMES = [path.stem for path in sorted((ROOT / "workflows").glob("*.json"))]
WINDOW = (1440, 800)
LEAST_ZOOM = 0.6
LISTEN = """(() => {
  window.reduxEvents = [];
  for (const kind of ["execution_success", "execution_error", "execution_interrupted", "executed",
      "b_preview_with_metadata", "progress_text"])
    app.api.addEventListener(kind, ({detail}) => window.reduxEvents.push({kind, detail}));
  app.extensionManager.setting.set("Comfy.Minimap.Visible", false);
})()"""
STORE = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('%s')"
CLICK = "(() => { const found = %s; found?.click(); return Boolean(found); })()"
CATEGORY = "[...document.querySelectorAll('[role=dialog] nav *')].find((item) => item.innerText === 'redux-control')"
CARD = "document.querySelector('[data-testid=\"template-workflow-' + CSS.escape(%s) + '\"]')"
RUN = """(document.querySelector('[data-testid=linear-run-button-icon]')?.closest("button")
  ?? document.querySelector('[data-testid=queue-button]'))"""
NODES = "app.graph._nodes.length"
DRAWN = f"document.querySelectorAll('[data-node-id]').length >= {NODES}"
PROBLEMS = """(() => {
  const stores = document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s;
  const count = (name, key) => [].concat(stores.get(name)?.[key] ?? []).length;
  return {
    red: app.graph._nodes.filter((node) => node.has_errors).map((node) => node.title),
    refused: Object.keys(app.lastNodeErrors ?? {}),
    models: count("missingModel", "missingModelCandidates"),
    media: count("missingMedia", "missingMediaCandidates"),
    nodes: count("missingNodesError", "missingNodesError"),
  };
})()"""
NONE = {"red": [], "refused": [], "models": 0, "media": 0, "nodes": 0}
APP = "document.querySelectorAll('[data-testid=app-mode-widget-item]').length"
# Pairs of nodes of which one covers the other, and nodes that stick out of their group. In Nodes 2.0 as they are drawn.
CROWDED = """(() => {
  const drawn = (node) => {
    const found = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    if (!found) return [...node.boundingRect];
    const [x, y] = app.canvas.convertEventToCanvasOffset({clientX: found.left, clientY: found.top});
    return [x, y, found.width / app.canvas.ds.scale, found.height / app.canvas.ds.scale];
  };
  const boxes = app.graph._nodes.map((node) => ({node, box: drawn(node)}));
  const told = [];
  for (const a of boxes) for (const b of boxes) if (a.node.id < b.node.id
      && a.box[0] < b.box[0] + b.box[2] - 1 && b.box[0] < a.box[0] + a.box[2] - 1
      && a.box[1] < b.box[1] + b.box[3] - 1 && b.box[1] < a.box[1] + a.box[3] - 1)
    told.push([a.node.title, b.node.title]);
  for (const {node, box} of boxes) for (const {title, _bounding: [x, y, w, h]} of app.graph._groups)
    if (box[0] > x && box[0] < x + w && box[1] > y && box[1] < y + h && box[1] + box[3] > y + h + 1)
      told.push([node.title, title]);
  return told;
})()"""
LAID_OUT = f"[app.canvas.ds.scale, ...app.canvas.ds.offset, {NODES}, {CROWDED}]"
"""The view is fitted when the graph stands, and nodes grow as they are drawn."""
OPEN = """(async () => {
  const answer = await fetch("/api/workflow_templates/redux-control/" + encodeURIComponent(%s) + ".json");
  await app.loadGraphData(await answer.json(), true, true, %s, {openSource: "template"});
  return null;
})()"""
WIRE = """(() => {
  const [load, save] = ["LoadImage", "SaveImage"].map((kind) => LiteGraph.createNode(kind)), [node] = app.graph._nodes;
  app.graph.add(load);
  app.graph.add(save);
  load.widgets.find(({name}) => name === "image").value = "redux_ghost.png";
  load.connect(0, node, 0);
  node.connect(0, save, 0);
})()"""
FEW_STEPS = """app.graph._nodes.filter(({type}) => type === "KSampler").forEach(
  ({widgets}) => { widgets.find(({name}) => name === "steps").value = 4; })"""
TOGGLE_APP = "app.extensionManager.command.execute('Comfy.ToggleLinear')"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, page_arguments: list[str]) -> Iterator[Server]:
    """The machine that `make serve` makes."""
    folder = tmp_path_factory.mktemp("serve")
    furnish(folder)
    with Server(host.ensure(os.environ.get("REDUX_HOST") or None), folder, arguments=page_arguments) as running:
        yield running


async def open_template(page: browser.Browser, name: str) -> None:
    """Menu, category, card: three clicks."""
    await page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    await page.until(CLICK % CATEGORY)
    await page.evaluate("app.graph.clear()")
    await page.until(CLICK % (CARD % json.dumps(name)))
    await page.until(f"{NODES} > 5 && !document.querySelector('[role=dialog]')")
    await page.still(LAID_OUT)


async def run(page: browser.Browser) -> list[dict[str, Any]]:
    """Press Run; the pictures that came out of it."""
    await page.evaluate("window.reduxEvents = []")
    await page.until(CLICK % RUN)
    ended = "window.reduxEvents.find(({kind}) => kind.startsWith('execution_'))"
    end = await page.until(f"{ended} ?? (Object.keys(app.lastNodeErrors ?? {{}}).length && app.lastNodeErrors)", 300)
    assert end.get("kind") == "execution_success", end
    shown = await page.evaluate(
        "window.reduxEvents.filter(({kind}) => kind === 'executed').map(({detail}) => detail.output)"
    )
    return [image for output in shown if output for image in output.get("images", []) if image["type"] == "output"]


async def says_what_acts(page: browser.Browser) -> None:
    """While the last run sampled, the sampler's node had the map so far and a sentence, which is gone again."""
    sampler = await page.evaluate("app.graph._nodes.find(({type}) => type === 'KSampler').id")
    told = await page.evaluate(
        "window.reduxEvents.map(({kind, detail}) => [kind, String(detail.displayNodeId ?? detail.nodeId), detail.text])"
    )
    assert ["b_preview_with_metadata", str(sampler)] in [entry[:2] for entry in told]
    texts = [text for kind, node, text in told if kind == "progress_text" and node == str(sampler)]
    assert re.match(r"reference 1 has [\d.]+ %, reference 2 has [\d.]+ %", texts[0]) and texts[-1] == ""
    left = "app.graph._nodes.some(({widgets}) => widgets?.some(({name}) => name === '$$node-text-preview'))"
    assert not await page.evaluate(left)


async def screenshot(page: browser.Browser, name: str) -> None:
    folder = os.environ.get("REDUX_SCREENSHOTS")
    if folder:
        await page.still(LAID_OUT)
        Path(folder).mkdir(parents=True, exist_ok=True)
        await page.screenshot(Path(folder) / f"{name}.png")


async def prepare(page: browser.Browser) -> None:
    width, height = WINDOW
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    await page.started("ReduxLoadFlux")
    await page.evaluate(LISTEN)


async def click_through(url: str, folder: Path) -> None:
    """Each template in classic rendering: opened by clicks, and run."""
    async with browser.Browser(url, folder, WINDOW) as page:
        await prepare(page)
        for name in NAMES:
            await open_template(page, name)
            assert await page.evaluate("app.canvas.ds.scale") >= LEAST_ZOOM, name
            assert await page.evaluate(CROWDED) == [], name
            assert await page.evaluate(PROBLEMS) == NONE, name
            assert await run(page), name
            if "each reference acts" in name:
                await says_what_acts(page)
            assert await page.evaluate(PROBLEMS) == NONE, name
            await screenshot(page, name)
            assert await page.evaluate(CROWDED) == [], name
        assert len(await run_blueprint(page)) == 1
        await screenshot(page, "blueprint")


async def run_blueprint(page: browser.Browser) -> list[dict[str, Any]]:
    """The subgraph "Redux Variation", found in the node search and run between a picture and a Save node."""
    await page.evaluate("app.graph.clear()")
    await page.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    await page.until("document.activeElement?.tagName === 'INPUT'")
    await page.call("Input.insertText", text="redux variation")
    await page.until("document.body.innerText.includes('Subgraph Blueprints / redux')")
    for kind in ("keyDown", "keyUp"):
        await page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13)
    await page.until(f"{NODES} === 1")
    mouse = {"x": 720, "y": 300, "button": "left", "clickCount": 1}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):  # the new node hangs on the pointer
        await page.call("Input.dispatchMouseEvent", type=kind, **mouse)
    await page.evaluate(WIRE)
    await page.still(LAID_OUT)
    return await run(page)


async def run_as_apps(url: str, folder: Path) -> None:
    """Each template in Nodes 2.0: opened, and run in app mode, in few steps, since it has run as it stands already."""
    async with browser.Browser(url, folder, WINDOW) as page:
        await prepare(page)
        for name in NAMES:
            await page.evaluate(OPEN % (json.dumps(name), json.dumps(name)))
            await page.until(DRAWN)
            await page.still(LAID_OUT)
            assert await page.evaluate("app.canvas.ds.scale") >= LEAST_ZOOM, name
            assert await page.evaluate(CROWDED) == [], name
            assert await page.evaluate(PROBLEMS) == NONE, name
            await page.evaluate(FEW_STEPS)
            await page.evaluate(TOGGLE_APP)
            assert await page.until(APP) >= 3, name
            assert await run(page), name
            await screenshot(page, f"{name}, app")
            await page.evaluate(TOGGLE_APP)
            await page.until(DRAWN)
            await page.still(LAID_OUT)
            await screenshot(page, f"{name}, Nodes 2.0")
            assert await page.evaluate(CROWDED) == [], name


@pytest.mark.timeout(1200)
def test_every_template_opens_and_runs(fresh: Server, tmp_path: Path) -> None:
    asyncio.run(click_through(fresh.url, tmp_path / "chromium"))


@pytest.mark.timeout(1200)
def test_every_template_runs_in_app_mode(fresh: Server, tmp_path: Path) -> None:
    client = Client(fresh.url)
    client.request("/settings/Comfy.TutorialCompleted", True)
    client.request("/settings/Comfy.VueNodes.Enabled", True)
    try:
        asyncio.run(run_as_apps(fresh.url, tmp_path / "chromium"))
    finally:
        client.request("/settings/Comfy.VueNodes.Enabled", False)
