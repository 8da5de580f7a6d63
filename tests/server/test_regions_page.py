"""Regions drawn with the pointer on ComfyUI's real page, in classic rendering and in Nodes 2.0."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tools import browser
from tools.client import Client
from tools.server import Server

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")

ADD = """(() => {
  window.app.graph.clear();
  const node = LiteGraph.createNode("ReduxRegions");
  node.pos = [80, 60];
  window.app.graph.add(node);
  window.app.canvas.ds.scale = 1;
  window.app.canvas.ds.offset = [60, 60];
  window.app.canvas.setDirty(true, true);
  window.reduxNode = node;
})()"""
VALUE = "window.reduxNode.widgets.find((widget) => widget.name === '%s').value"
BOUNDS = """(() => {
  const canvas = document.querySelector("canvas.redux-regions");
  if (!canvas || canvas.clientWidth < 50) return null;
  const {left, top, width, height} = canvas.getBoundingClientRect();
  return [left, top, width, height];
})()"""


async def still(page: Any) -> list[float]:
    """Where the canvas lies once the page has laid out its node, which a busy machine does late."""
    await page.until(BOUNDS)
    return list(await page.still(BOUNDS))


async def drag(page: Any, start: tuple[float, float], stop: tuple[float, float]) -> None:
    """Press, move and release, in shares of the square picture in the middle of the canvas."""
    left, top, width, height = await still(page)
    side = min(width, height)
    places = [(left + (width - side) / 2 + x * side, top + (height - side) / 2 + y * side) for x, y in (start, stop)]
    (x, y), (other_x, other_y) = places
    mouse = {"button": "left", "buttons": 1, "clickCount": 1}
    await page.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **mouse)
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=(x + other_x) / 2, y=(y + other_y) / 2, **mouse)
    await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=other_x, y=other_y, **mouse)
    await page.call("Input.dispatchMouseEvent", type="mouseReleased", x=other_x, y=other_y, **{**mouse, "buttons": 0})


async def boxes(page: Any) -> list[list[float]]:
    text = await page.evaluate(VALUE % "boxes")
    return [[float(part) for part in line.split(",")] for line in text.splitlines()]


def close(found: list[float], wanted: list[float]) -> bool:
    return all(abs(a - b) < 3 for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("rendering", ["classic", "nodes-2.0", "classic with the side panel"])
def test_boxes_are_drawn_moved_and_removed(server: Server, client: Client, tmp_path: Path, rendering: str) -> None:
    shots = Path(os.environ["REDUX_SCREENSHOTS"]) if "REDUX_SCREENSHOTS" in os.environ else tmp_path
    client.request("/settings/Comfy.TutorialCompleted", True)  # or a window of templates covers the canvas
    client.request("/settings/Comfy.VueNodes.Enabled", rendering == "nodes-2.0")
    client.request("/settings/Comfy.RightSidePanel.IsOpen", rendering.endswith("panel"))  # it narrows the canvas

    async def draw() -> None:
        async with browser.Browser(server.url, tmp_path / "chromium") as page:
            await page.started("ReduxRegions")
            await page.evaluate(ADD)
            await page.evaluate(f"{VALUE % 'boxes'} = ''")
            await drag(page, (0.1, 0.1), (0.5, 0.6))
            (first,) = await boxes(page)
            assert close(first, [10, 10, 40, 50])
            await drag(page, (0.6, 0.55), (0.9, 0.95))
            assert close((await boxes(page))[1], [60, 55, 30, 40])
            await drag(page, (0.3, 0.3), (0.4, 0.5))  # moves the first, which stops nowhere near the border
            assert close((await boxes(page))[0], [20, 30, 40, 50])
            await page.screenshot(shots / f"regions-{rendering}.png")
            await page.evaluate(f"{VALUE % 'layout'} = 'quarters'")
            await drag(page, (0.25, 0.25), (0.3, 0.3))  # a layout's boxes become one's own when they are drawn on
            assert await page.evaluate(VALUE % "layout") == "drawn boxes"
            assert len(await boxes(page)) == 4
            saved = await page.evaluate("window.app.graph.serialize().nodes[0].widgets_values")
            assert saved[0] == "drawn boxes" and len(saved) == 5, saved
            prompt = await page.evaluate("window.app.graphToPrompt().then((graph) => Object.values(graph.output)[0])")
            assert set(prompt["inputs"]) == {"layout", "boxes", "softness", "width", "height"}

    try:
        asyncio.run(draw())
    finally:
        client.request("/settings/Comfy.VueNodes.Enabled", False)
