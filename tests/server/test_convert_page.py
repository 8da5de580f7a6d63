"""Edit > Convert to Redux Control, in ComfyUI's real page: a new workflow that queues what the converter says."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from convert import convert
from tools import browser
from tools.client import Client
from tools.server import Server

KNOWN = "app.extensionManager.command.commands.some((command) => command.id === 'Redux.ConvertWorkflow')"
TOLD = "document.body.innerText"  # newer pages show what they tell in another element
PROMPT = "app.graphToPrompt().then((prompt) => prompt.output)"
RUN = 'app.extensionManager.command.execute("Redux.ConvertWorkflow")'
OPEN = "app.extensionManager.workflow.openWorkflows.length"
OLD: dict[str, Any] = {
    "1": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "a.safetensors"}},
    "2": {"class_type": "StyleModelLoader", "inputs": {"style_model_name": "b.safetensors"}},
    "3": {"class_type": "CLIPVisionEncode", "inputs": {"clip_vision": ["1", 0], "image": ["9", 0], "crop": "none"}},
    "4": {"class_type": "StyleModelApply", "inputs": {"conditioning": ["8", 0], "style_model": ["2", 0],
          "clip_vision_output": ["3", 0], "strength": 0.5, "strength_type": "attn_bias"}},
    "5": {"class_type": "CLIPVisionEncode", "inputs": {"clip_vision": ["1", 0], "image": ["9", 0], "crop": "center"}},
    "6": {"class_type": "StyleModelApply", "inputs": {"conditioning": ["4", 0], "style_model": ["2", 0],
          "clip_vision_output": ["5", 0], "strength": 1.0, "strength_type": "multiply"}},
    "8": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["10", 0]}},
    "9": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "10": {"class_type": "CLIPTextEncode", "inputs": {"text": "words", "clip": ["11", 0]}},
    "11": {"class_type": "ReduxMiniatureText", "inputs": {"words_name": "redux-mini-words.safetensors"}},
    "12": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["6", 0], "guidance": 3.5}},
}  # fmt: skip


def test_route_says_what_is_wrong_in_one_sentence(client: Client) -> None:
    with pytest.raises(Exception, match="no workflow of ComfyUI"):
        client.request("/redux/convert", {"a": 1})
    with pytest.raises(Exception, match="is no JSON"):
        client.request("/redux/convert", data=b"9" * 5000)  # more digits than Python reads
    dangling = {"id": 4, "type": "StyleModelApply", "inputs": [{"name": "clip_vision_output", "link": 3}]}
    with pytest.raises(Exception, match="damaged .clip_vision_output of node 4 has the link 3"):
        client.request("/redux/convert", {"nodes": [dangling], "links": []})
    marked = client.request("/redux/convert", data=json.dumps(OLD).encode("utf-8-sig"), kind="application/json")
    answer = json.loads(client.request("/redux/convert", OLD))
    assert answer == json.loads(marked)
    assert answer["workflow"] == convert(OLD).workflow and len(answer["converted"]) == 2


@pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")
def test_the_command_opens_a_converted_copy(server: Server, client: Client, tmp_path: Path) -> None:
    shots = Path(os.environ["REDUX_SCREENSHOTS"]) if "REDUX_SCREENSHOTS" in os.environ else tmp_path
    client.request("/settings/Comfy.TutorialCompleted", True)  # or a window of templates covers the canvas

    async def use() -> tuple[dict[str, Any], dict[str, Any], int]:
        async with browser.Browser(server.url, tmp_path / "chromium") as page:
            await page.started("ReduxApply")
            await page.evaluate(f"app.loadApiJson({json.dumps(OLD)}, 'old')")
            await page.until("app.graph._nodes.some((node) => node.type === 'StyleModelApply')")
            before, tabs = await page.evaluate(PROMPT), await page.evaluate(OPEN)
            await page.until(KNOWN)
            await page.evaluate(RUN)
            await page.until(f"{TOLD}.includes('Converted')")
            await page.screenshot(shots / "converted.png")
            return before, await page.evaluate(PROMPT), await page.evaluate(OPEN) - tabs

    before, after, opened = asyncio.run(use())
    expected = convert(before).workflow
    assert opened == 1
    assert {key: node["class_type"] for key, node in after.items()} == {
        key: node["class_type"] for key, node in expected.items()
    }
    for key, node in expected.items():
        assert after[key]["inputs"] == node["inputs"], key
