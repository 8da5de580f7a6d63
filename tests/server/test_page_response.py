"""Graphs from before Apply Redux had a response mean a weight on ComfyUI's page; new nodes begin with an even one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tools import browser
from tools.client import Client
from tools.server import Server

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")

RESPONSES = """window.app.graph._nodes.filter((node) => node.type === "ReduxApply").map(
  (node) => node.widgets.find((widget) => widget.name === "response").value).join()"""
VALUES = [0.3, True, 0, 1, "constant", "joint", ""]  # all that a graph had before


def graph(*values: list[Any]) -> dict[str, Any]:
    nodes = [
        {"id": index, "type": "ReduxApply", "pos": [80, 300 * index], "size": [300, 250], "order": index, "mode": 0}
        | {"flags": {}, "inputs": [], "outputs": [], "properties": {}, "widgets_values": row}
        for index, row in enumerate(values, 1)
    ]
    return {"last_node_id": len(nodes), "last_link_id": 0, "nodes": nodes, "links": [], "groups": []} | {
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def test_older_graphs_keep_their_weight(server: Server, client: Client, tmp_path: Path) -> None:
    client.request("/settings/Comfy.TutorialCompleted", True)

    async def look() -> None:
        async with browser.Browser(server.url, tmp_path / "chromium") as page:
            await page.started("ReduxApply")
            await page.evaluate("window.app.graph.clear()")
            await page.evaluate('window.app.graph.add(LiteGraph.createNode("ReduxApply")), null')
            assert await page.evaluate(RESPONSES) == "even"
            saved = json.dumps(graph(VALUES, [*VALUES, "even"], [*VALUES, "weight"], VALUES[:5]))
            await page.evaluate(f"window.app.loadGraphData({saved}).then(() => null)")
            assert await page.evaluate(RESPONSES) == "weight,even,weight,weight"
            again = "window.app.loadGraphData(window.app.graph.serialize()).then(() => null)"
            await page.evaluate(again)
            assert await page.evaluate(RESPONSES) == "weight,even,weight,weight"
            older = {"class_type": "ReduxApply", "inputs": {"strength": 0.3}}
            newer = {"class_type": "ReduxApply", "inputs": {"strength": 0.3, "response": "even"}}
            prompt = json.dumps({"1": older, "2": newer})
            await page.evaluate(f"Promise.resolve(window.app.loadApiJson({prompt}, 'x')).then(() => null)")
            assert await page.evaluate(RESPONSES) == "weight,even"

    asyncio.run(look())
