"""Make `subgraphs/Redux Variation.json`, the blueprint that the page's node search offers, with ComfyUI's real page.

    .venv/bin/python -m tools.blueprint

It is the template of variations with everything between the picture and the result in one node. ComfyUI reads the
folder `subgraphs` of every pack.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from . import browser
from .errors import ToolError
from .host import ROOT, ensure
from .serve import furnish
from .server import Server
from .signals import end_on_signals
from .template_graphs import PLANS
from .template_plan import Plan
from .templates import own

TARGET = ROOT / "subgraphs" / "Redux Variation.json"
ABOUT = (
    "Variations of a picture with FLUX.1 Redux: the picture, a prompt, a strength and a size in, pictures out. "
    "It takes FLUX.1 where it is installed, otherwise the miniature of this pack."
)
ALIASES = ["redux", "image variation", "variation", "flux redux", "similar image", "restyle"]
# What stands on the node: its name there, and the node and the widget inside.
SHOWN = [
    ("prompt", "prompt", "text"),
    ("strength", "apply", "strength"),
    ("aspect_ratio", "size", "aspect_ratio"),
    ("megapixels", "size", "megapixels"),
    ("batch_size", "size", "batch_size"),
    ("seed", "sample", "seed"),
    ("steps", "sample", "steps"),
]

MAKE = """(async () => {
    const {graph, shown, outside, columns} = %s;
    const known = await (await fetch("/object_info")).json();
    for (const node of Object.values(graph)) {
        const {required, optional} = known[node.class_type].input;
        for (const [input, [, about]] of Object.entries({...required, ...optional}))
            if (about?.default !== undefined) node.inputs[input] ??= about.default;
    }
    await app.loadApiJson(graph, "Redux Variation");
    await new Promise(done => setTimeout(done, 500));
    const below = columns.map(() => 0);
    for (const node of app.graph._nodes) {
        const column = %s[node.id];
        node.setSize([Math.max(260, node.computeSize()[0]), node.computeSize()[1]]);
        node.pos = [column * 330, below[column]];
        below[column] += node.size[1] + 50;
    }
    const inner = app.graph._nodes.filter(({id}) => !outside.includes(Number(id)));
    const {subgraph, node} = app.graph.convertToSubgraph(new Set(inner));
    subgraph.name = node.title = "Redux Variation";
    for (const input of [...subgraph.inputs]) if (input.name !== "image") subgraph.removeInput(input);  // of the page
    for (const [name, title, widget] of shown) {
        const target = subgraph._nodes.find(other => other.title === title);
        const slot = target.inputs.find(input => input.widget?.name === widget);
        subgraph.addInput(name, slot.type).connect(slot, target);
    }
    subgraph.renameOutput(subgraph.outputs[0], "images");
    for (const other of [...app.graph._nodes]) if (other !== node) app.graph.remove(other);
    node.pos = [0, 0];
    node.setSize([340, Math.max(400, node.computeSize()[1])]);
    return app.graph.serialize();
})()"""


def finish(made: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What the search shows, ids that do not change from time to time, and whose nodes these are."""
    (node,) = made["nodes"]
    (inside,) = made["definitions"]["subgraphs"]
    text = json.dumps(made)
    for number, entry in enumerate([inside, *inside["inputs"], *inside["outputs"]]):
        text = text.replace(entry["id"], str(uuid.uuid5(uuid.NAMESPACE_URL, f"redux-control/variation/{number}")))
    made = json.loads(text)
    (node,), (inside,) = made["nodes"], made["definitions"]["subgraphs"]
    inside |= {"category": "redux", "description": ABOUT}
    for other in inside["nodes"]:
        own(other)
    node["properties"] = {"cnr_id": "redux-control"}
    made["links"], made["groups"], made["revision"] = [], [], 0
    made["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, "redux-control/variation"))
    made["extra"] = {"BlueprintDescription": ABOUT, "BlueprintSearchAliases": ALIASES}
    return made


async def make(url: str, folder: Path) -> None:
    plan = PLANS["variation"]()
    numbers = plan.numbers()
    given = {
        "graph": plan.api(),
        "outside": [numbers["image"], numbers["save"]],
        "columns": list(plan.columns),
        "shown": [(name, plan.nodes[key].title, widget) for name, key, widget in SHOWN],
    }
    columns = {numbers[key]: node.column for key, node in plan.nodes.items()}
    async with browser.Browser(url, folder) as page:
        await page.started("ReduxLoadFlux")
        await asyncio.sleep(3)  # the page opens a graph of its own last
        made = await page.evaluate(MAKE % (json.dumps(given), json.dumps(columns)))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(finish(made, plan), indent=1) + "\n", "utf-8")
    print(TARGET.relative_to(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", help="of a running `make serve`, instead of one of its own")
    args = parser.parse_args()
    end_on_signals()
    if browser.PROGRAM is None:
        raise ToolError("There is no Chromium on this machine; the blueprint is made by ComfyUI's real page.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if args.url:
            asyncio.run(make(args.url, Path(folder) / "chromium"))
            return
        furnish(Path(folder) / "comfyui")
        with Server(ensure(), Path(folder) / "comfyui") as server:
            asyncio.run(make(server.url, Path(folder) / "chromium"))


if __name__ == "__main__":
    try:
        main()
    except ToolError as error:
        sys.exit(f"error: {error}")
