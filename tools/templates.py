"""Make the templates of `workflows/` from the plans of `template_graphs.py`, with ComfyUI's real page.

    .venv/bin/python -m tools.templates [NAME ...]

The page itself loads the graph and writes the workflow, so that templates are what ComfyUI writes; places, groups, the
wires over the top, the note and the app's inputs are added here. Needs Chromium; users do not. Screenshots
at 1440 x 800, as a template opens, go to output/templates, to be looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from . import browser
from .client import Client
from .errors import ToolError
from .host import ROOT, ensure
from .serve import furnish
from .server import Server
from .signals import end_on_signals
from .template_graphs import PLANS
from .template_layout import GAP, bounds, place, routes, widened
from .template_notes import TITLES, note
from .template_plan import Plan

WORKFLOWS = ROOT / "workflows"
PICTURES = ROOT / "output" / "templates"
NOTE_HEIGHT = 300
SHOWN = ("SaveImage", "ReduxSaveImage", "ReduxInfluence")  # in app mode
WINDOW = (1440, 800)
OLDEST_HOST = "0.18.0"

LOAD = """(async () => {
    const {graph, name, wanted} = %s;
    const known = await (await fetch("/object_info")).json();
    for (const node of Object.values(graph)) {  // the page remembers what other graphs set
        const {required, optional} = known[node.class_type].input;
        for (const [input, [, about]] of Object.entries({...required, ...optional}))
            if (about?.default !== undefined) node.inputs[input] ??= about.default;
    }
    await app.loadApiJson(graph, name);
    await new Promise(done => setTimeout(done, 400));
    return app.graph._nodes.map(node => {
        const {width, height, mode, collapsed} = wanted[node.id], least = node.computeSize();
        node.mode = mode;
        if (collapsed) node.flags.collapsed = true;
        node.setSize([width, collapsed ? least[1] : height ?? least[1]]);
        return [String(node.id), [...node.size]];
    });
})()"""

# Heights of the nodes' bodies as Nodes 2.0 draws them, which has other widgets and more of them.
MEASURE = """(async () => {
    const set = (value) => app.extensionManager.setting.set("Comfy.VueNodes.Enabled", value);
    const drawn = (id) => document.querySelector(`[data-node-id="${id}"]`);
    const wait = (ms) => new Promise(done => setTimeout(done, ms));
    await set(true);
    for (let tries = 0; tries < 50 && app.graph._nodes.some(({id}) => !drawn(id)); tries++) await wait(100);
    await wait(700);
    const found = app.graph._nodes.map(({id}) => [String(id), drawn(id).offsetHeight - 30]);
    await set(false);
    await wait(300);
    return found;
})()"""

PLACE = """(async () => {
    const {positions, sizes, note, groups, routes} = %s, graph = app.graph;
    for (const node of graph._nodes) {
        node.pos = positions[node.id];
        node.setSize(sizes[node.id]);
    }
    const markdown = LiteGraph.createNode("MarkdownNote");
    graph.add(markdown);
    markdown.title = "Read me";
    markdown.widgets[0].value = note.text;
    markdown.pos = note.pos;
    markdown.setSize(note.size);
    for (const {title, bounds} of groups) {
        const group = new LiteGraph.LGraphGroup(title);
        group.pos = bounds.slice(0, 2);
        group.size = bounds.slice(2);
        group.color = "#5c7f8c";
        group.font_size = 20;
        graph.add(group);
    }
    const points = new Map();
    for (const {source, slot, target, input, stops} of routes) {
        const from = graph.getNodeById(source), to = graph.getNodeById(target);
        const index = to.inputs.findIndex(({name}) => name === input), link = graph.links.get(to.inputs[index].link);
        const heights = {source: from.getConnectionPos(false, slot)[1], target: to.getConnectionPos(true, index)[1]};
        let path = `${source} ${slot}`;
        for (const [x, height] of stops) {
            const y = heights[height] ?? height;
            path += ` ${x} ${y}`;
            if (points.has(path)) {
                link.parentId = points.get(path);
                graph.reroutes.get(link.parentId).linkIds.add(link.id);
            } else points.set(path, graph.createReroute([x, y], link).id);
        }
    }
    graph.setDirtyCanvas(true, true);
    return graph.serialize();
})()"""

OPEN = """(async () => {
    const answer = await fetch("/api/workflow_templates/redux-control/" + encodeURIComponent(%s) + ".json");
    await app.loadGraphData(await answer.json(), true, true, %s, {openSource: "template"});
})()"""


def finish(template: dict[str, Any], plan: Plan, name: str) -> dict[str, Any]:
    """What the page does not know: an id of its own, whose nodes they are, and what app mode shows."""
    template["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(plan.api(), sort_keys=True)))
    template["revision"] = 0
    numbers = plan.numbers()
    outputs = [numbers[key] for key, node in plan.nodes.items() if node.kind in SHOWN]
    kept = {key: value for key, value in template.get("extra", {}).items() if key in ("reroutes", "linkExtensions")}
    inputs = [[numbers[key], widget] for key, widget in plan.app]
    template["extra"] = {**kept, "linearMode": False, "linearData": {"inputs": inputs, "outputs": outputs}}
    template.pop("definitions", None)  # of subgraphs, of which there are none
    for node in template["nodes"]:
        own(node)
    return template


def own(node: dict[str, Any]) -> None:
    """Say whose a node is, and of which version."""
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version is not None
    ours = node["type"].startswith("Redux")
    node["properties"]["cnr_id"] = "redux-control" if ours else "comfy-core"
    node["properties"]["ver"] = version[1] if ours else OLDEST_HOST


async def make(page: browser.Browser, name: str) -> Path:
    """Write one template."""
    plan = PLANS[name]()
    plan.columns = widened(plan)
    graph = plan.api((0, 2, 4))
    numbers = plan.numbers()
    wanted = {
        numbers[key]: {"width": plan.columns[node.column], "height": node.height, "mode": node.mode,
                       "collapsed": node.collapsed}
        for key, node in plan.nodes.items()
    }  # fmt: skip
    found = await page.evaluate(LOAD % json.dumps({"graph": graph, "name": name, "wanted": wanted}))
    by_number = {str(number): key for key, number in numbers.items()}
    sizes = {by_number[number]: size for number, size in found}
    for number, height in await page.evaluate(MEASURE):
        if not plan.nodes[by_number[number]].collapsed:
            sizes[by_number[number]][1] = max(sizes[by_number[number]][1], height)
    seen = {key: [size[0], 0] if plan.nodes[key].collapsed else size for key, size in sizes.items()}
    positions = place(plan, seen)
    left, span = plan.note
    width = sum(plan.columns[left : left + span]) + GAP * (span - 1)
    bottom = max(positions[key][1] + size[1] for key, size in seen.items())
    seen["note"] = [width, max(bottom - positions["note"][1], NOTE_HEIGHT)]
    arguments = {
        "positions": {numbers[key]: position for key, position in positions.items() if key != "note"},
        "note": {
            "text": note(name, plan),
            "pos": positions["note"],
            "size": seen["note"],
        },
        "sizes": {numbers[key]: size for key, size in sizes.items()},
        "groups": [{"title": title, "bounds": bounds(keys, positions, seen)} for title, keys in plan.groups.items()],
        "routes": routes(plan, positions, seen),
    }
    template = await page.evaluate(PLACE % json.dumps(arguments))
    target = WORKFLOWS / f"{TITLES[name]}.json"
    target.write_text(json.dumps(finish(template, plan, name), indent=1) + "\n", "utf-8")
    return target


async def make_all(url: str, names: list[str], folder: Path) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    Client(url).request("/settings/Comfy.TutorialCompleted", True)  # or a dialog covers the screenshots
    async with browser.Browser(url, folder, WINDOW) as page:
        width, height = WINDOW
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await page.started("ReduxLoadFlux")
        await asyncio.sleep(3)  # the page opens a graph of its own last
        for name in names:
            target = await make(page, name)
            await page.evaluate(OPEN % (json.dumps(target.stem), json.dumps(target.stem)))
            await asyncio.sleep(1)
            await page.screenshot(PICTURES / f"{name}.png")
            print(target.relative_to(ROOT), "zoom", round(await page.evaluate("app.canvas.ds.scale"), 3), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(TITLES), help="keys of template_graphs.PLANS")
    parser.add_argument("--url", help="of a running `make serve`, instead of one of its own")
    args = parser.parse_args()
    end_on_signals()
    if browser.PROGRAM is None:
        raise ToolError("There is no Chromium on this machine; the templates are drawn by ComfyUI's real page.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if args.url:
            asyncio.run(make_all(args.url, args.names, Path(folder) / "chromium"))
            return
        furnish(Path(folder) / "comfyui")
        with Server(ensure(), Path(folder) / "comfyui") as server:
            asyncio.run(make_all(server.url, args.names, Path(folder) / "chromium"))


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
