"""The pack's nodes on ComfyUI's real page, in both renderings: sentences that come and go, regions that stay in their
node, room for sliders, colours, and where the page offers them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tools import browser
from tools.client import Client
from tools.server import Server

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")

PICTURE = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 8000}}
GRAPH: dict[str, Any] = {
    "1": PICTURE,
    "2": {"class_type": "ReduxSweepSheet", "inputs": {"images": ["1", 0], "labels": "a\nb", "columns": 0}},
}
REGIONS: dict[str, Any] = {
    "1": PICTURE,
    "2": {"class_type": "ReduxRegions", "inputs": {"background": ["1", 0], "layout": "left, right", "softness": 0.2,
          "boxes": "0, 0, 50, 100", "width": 1024, "height": 1024}},
    "3": {"class_type": "MaskPreview", "inputs": {"mask": ["2", 0]}},
}  # fmt: skip
LOAD = "Promise.resolve(app.loadApiJson(%s, 'nodes')).then(() => null)"
READY = "app.graph._nodes.length === %d && app.graph._nodes.every(({id}) => id)"
RUN = """(async () => {
  const ended = new Promise((done) => {
    for (const kind of ["execution_success", "execution_error"])
      app.api.addEventListener(kind, ({detail}) => done({kind, ...detail}), {once: true});
  });
  await app.queuePrompt(0, 1);
  const refused = Object.values(app.lastNodeErrors ?? {}).flatMap(({errors}) => errors.map(({details}) => details));
  return refused.length ? {kind: "refused", refused} : await ended;
})()"""
SENTENCE = """(() => {
  const node = app.graph._nodes.find(({type}) => type === "%s");
  return node.widgets.find(({name}) => name === "$$node-text-preview")?.value ?? null;
})()"""
SAY = """(() => {  // as nodes/host/report.py does
  app.api.dispatchCustomEvent("progress_text", {nodeId: "1", text: "%s"});
  app.api.dispatchCustomEvent("redux.sentence", {node: "1", text: "said"});
})()"""
SET = """(() => {
  const node = app.graph._nodes.find(({type}) => type === "%s");
  node.widgets.find(({name}) => name === "%s").value = %s;
})()"""
HEIGHT = "app.graph._nodes.find(({type}) => type === 'ReduxRegions').size[1]"
SLIDER = """(() => {
  const node = LiteGraph.createNode(%s), strength = node.widgets.find(({name}) => name === "strength");
  strength.callback.call(strength, 0.1231);  // as the page calls it for what is typed
  return [node.size[0], strength.value];
})()"""
ORANGE = """(() => {  // how much of the canvas has the colour of region 1, and of its fading edge
  const canvas = document.querySelector("canvas.redux-regions"), {width, height} = canvas;
  const row = canvas.getContext("2d").getImageData(0, height >> 1, width, 1).data;
  return new Set([...Array(width).keys()].map((x) => row[4 * x])).size;
})()"""


async def load(page: browser.Browser, graph: dict[str, Any]) -> None:
    await page.evaluate(LOAD % json.dumps(graph))
    await page.until(READY % len(graph))
    await page.still("app.graph._nodes.map(({size}) => [...size])")


async def sentences_come_and_go(page: browser.Browser, shots: Path, rendering: str) -> None:
    await load(page, GRAPH)
    await page.evaluate(SAY % "A run before said this of a node that is not ours.")
    assert await page.until(SENTENCE % "EmptyImage")
    await page.evaluate(SET % ("EmptyImage", "color", len(rendering)))  # what is kept from a run is not run again
    end = await page.evaluate(RUN)
    assert end["kind"] == "execution_error"
    await page.until(f"{SENTENCE % 'EmptyImage'} === null")
    said = await page.until(SENTENCE % "ReduxSweepSheet")
    assert said == "There are 1 pictures and 2 labels; one line for each picture is needed."
    await page.screenshot(shots / f"error-{rendering}.png")
    await page.evaluate(SET % ("ReduxSweepSheet", "labels", '"a"'))
    assert (await page.evaluate(RUN))["kind"] == "execution_success"
    await page.until(f"{SENTENCE % 'ReduxSweepSheet'} === null")


async def regions_stay_in_their_node(page: browser.Browser, shots: Path, rendering: str) -> None:
    await load(page, REGIONS)
    before, sharp = await page.still(HEIGHT), await page.evaluate(ORANGE)
    assert (await page.evaluate(RUN))["kind"] == "execution_success"
    await page.until(f"{ORANGE} > {sharp} + 10")  # the run's picture, with soft edges
    await page.screenshot(shots / f"regions-ran-{rendering}.png")
    assert await page.still(HEIGHT) <= before
    await page.evaluate(SET % ("ReduxRegions", "layout", '"drawn boxes"'))
    await page.evaluate(SET % ("ReduxRegions", "boxes", '"0, 0, 120, 10"'))
    refused = {text.partition(" - ")[2] for text in (await page.evaluate(RUN))["refused"]}  # ComfyUI names each input
    assert refused == {"Box 1, '0, 0, 120, 10', leaves the picture, which is 0 to 100 percent wide and high."}


async def sliders_have_room(page: browser.Browser) -> None:
    """A new node leaves them 140 pixels in Nodes 2.0, and what is typed keeps three digits."""
    for kind in ("ReduxApply", "ReduxSweep", "ReduxWeighLatents"):
        width, value = await page.evaluate(SLIDER % json.dumps(kind))
        assert width >= 340 and value == 0.123, kind


@pytest.mark.parametrize("rendering", ["classic", "nodes-2.0"])
def test_sentences_and_regions(server: Server, client: Client, tmp_path: Path, rendering: str) -> None:
    shots = Path(os.environ["REDUX_SCREENSHOTS"]) if "REDUX_SCREENSHOTS" in os.environ else tmp_path
    client.request("/settings/Comfy.TutorialCompleted", True)
    client.request("/settings/Comfy.VueNodes.Enabled", rendering == "nodes-2.0")

    async def use() -> None:
        async with browser.Browser(server.url, tmp_path / "chromium") as page:
            await page.started("ReduxSweepSheet")
            await sentences_come_and_go(page, shots, rendering)
            await regions_stay_in_their_node(page, shots, rendering)
            if rendering == "classic":
                await offers(page)
                await sliders_have_room(page)
            else:
                assert await page.evaluate(VARIABLE) == "#2fd3c4"

    try:
        asyncio.run(use())
    finally:
        client.request("/settings/Comfy.VueNodes.Enabled", False)


VARIABLE = "getComputedStyle(document.documentElement).getPropertyValue('--color-datatype-REDUX_TOKENS').trim()"
COLORS = """(() => {
  LiteGraph.createNode("ReduxEncode");
  const tables = [app.canvas.constructor.link_type_colors, app.canvas.default_connection_color_byType];
  return tables.flatMap((table) => [table.REDUX_TOKENS, table.REDUX_MODEL]);
})()"""
OFFERED = "[LiteGraph.slot_types_default_out.%s, LiteGraph.slot_types_default_in.%s]"
SEARCH = """document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s.get("nodeDef")
  .nodeSearchService.searchNode(%s, [], {limit: 64}).map(({name}) => name).filter((name) => /Redux/.test(name))"""
FOUND = {"style": "ReduxApply", "strength": "ReduxApply", "regional": "ReduxApply", "mask": "ReduxEncode",
         "region": "ReduxRegions", "weight": "ReduxApply", "similar": "ReduxEncode", "style transfer": "ReduxApply",
         "blend": "ReduxMix", "attention": "ReduxApply", "sweep": "ReduxSweep"}  # fmt: skip


async def offers(page: browser.Browser) -> None:
    """Colours of wires, what is offered behind a wire, and what the node search finds first among ours."""
    assert await page.evaluate(COLORS) == ["#2fd3c4", "#c9916b"] * 2
    for kind, behind, before in (
        ("IMAGE", "ReduxEncode", None),
        ("MASK", "ReduxApply", "ReduxRegions"),
        ("CONDITIONING", "ReduxApply", "ReduxApply"),
    ):
        after, ahead = await page.evaluate(OFFERED % (kind, kind))
        assert behind in after and (before is None or before in ahead), kind
    found = {word: (await page.evaluate(SEARCH % json.dumps(word)))[0] for word in FOUND}
    assert found == FOUND
