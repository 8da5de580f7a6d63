"""A saved file, dropped on the canvas of ComfyUI's real page in a real browser, brings its graph back."""

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

DROP = """(async () => {
  const answer = await fetch(%(path)s);
  const file = new File([await answer.blob()], %(name)s, {type: %(type)s});
  const transfer = new DataTransfer();
  transfer.items.add(file);
  const target = document.querySelector("#graph-canvas");
  target.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true,
                                              clientX: 600, clientY: 400}));
})()"""
TYPES = "window.app.graph.serialize().nodes.map((node) => node.type).sort()"
WIDGETS = "window.app.graph.serialize().nodes.find((node) => node.type === 'ReduxSaveImage').widgets_values"

MIME = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}


def graph(format: str, notes: int) -> dict[str, Any]:
    """A workflow as the page saves it: an empty picture into Save Image, and notes that make it long."""
    empty = {"id": 1, "type": "EmptyImage", "pos": [80, 120], "size": [270, 150], "order": 0, "mode": 0, "flags": {}}
    empty |= {"outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}], "widgets_values": [64, 64, 1, 4359924]}
    save = {"id": 2, "type": "ReduxSaveImage", "pos": [420, 120], "size": [300, 180], "order": 1, "mode": 0}
    save |= {"flags": {}, "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]}
    save |= {"widgets_values": [f"drop/{format}{notes}", format, 77]}
    note = {"type": "Note", "size": [200, 80], "order": 2, "mode": 0, "flags": {}, "widgets_values": ["\u00fc" * 2000]}
    texts = [{**note, "id": 10 + n, "pos": [80 + 20 * n, 420 + 12 * n]} for n in range(notes)]
    return {"id": "6e1f6b0e-3f0c-4a2e-9d1b-000000000001", "revision": 0, "last_node_id": 2, "last_link_id": 1} | {
        "nodes": [empty, save, *texts],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def save(client: Client, format: str, notes: int) -> dict[str, str]:
    """Run the graph as the page does, with the workflow beside the prompt; the saved file as the history names it."""
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 4359924}},
        "2": {
            "class_type": "ReduxSaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": f"drop/{format}{notes}", "format": format, "quality": 77},
        },
    }
    body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": graph(format, notes)}}}
    prompt_id = json.loads(client.request("/prompt", body))["prompt_id"]

    async def wait() -> dict[str, Any]:
        while not (history := client.history(prompt_id)):
            await asyncio.sleep(0.1)
        return history

    history = asyncio.run(asyncio.wait_for(wait(), 120))
    return dict(history["outputs"]["2"]["images"][0])


def test_dropping_each_format_restores_the_graph(server: Server, client: Client, tmp_path: Path) -> None:
    cases = [(format, save(client, format, notes), notes) for format in MIME for notes in (0, 12)]
    shots = Path(os.environ["REDUX_SCREENSHOTS"]) if "REDUX_SCREENSHOTS" in os.environ else tmp_path

    client.request("/settings/Comfy.TutorialCompleted", True)  # or a window of templates covers the canvas

    async def drop_all() -> None:
        async with browser.Browser(server.url, tmp_path / "chromium") as page:
            await page.started("ReduxSaveImage")
            for format, image, notes in cases:
                await page.evaluate("window.app.graph.clear()")
                assert await page.evaluate(TYPES) == []
                path = f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type=output"
                values = {"path": path, "name": image["filename"], "type": MIME[format]}
                await page.evaluate(DROP % {key: json.dumps(value) for key, value in values.items()})
                wanted = sorted(["EmptyImage", "ReduxSaveImage", *["Note"] * notes])
                await page.until(f"{TYPES}.join() === {json.dumps(','.join(wanted))}")
                assert await page.evaluate(WIDGETS) == [f"drop/{format}{notes}", format, 77, True]
                assert await page.evaluate("window.app.graph.serialize().links.length") == 1
                await page.screenshot(shots / f"drop-{format}-{notes}.png")

    asyncio.run(drop_all())
