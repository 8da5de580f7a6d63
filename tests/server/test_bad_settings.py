"""Settings that ComfyUI leaves to the node to check, through a real server: refused before anything runs, in short."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools import workflow
from tools.client import Client, ClientError

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
VARIATION, SWEEP = API / "image_variation.json", API / "strength_sweep.json"

Small = Callable[..., workflow.Workflow]


@pytest.mark.parametrize(
    ("path", "node", "inputs", "words"),
    [
        (SWEEP, "ReduxSweep", {"what": "foo"}, "A sweep of 'foo' is not known; choose strength or end_percent"),
        (SWEEP, "ReduxSweep", {"values": "1_0"}, "'1_0' of the sweep is no number"),
        (VARIATION, "ReduxApply", {"blocks": "a" * 100_000}, "The block rule 'a{59}…' cannot be read"),
        (VARIATION, "ReduxApply", {"blocks": ["a"]}, "Bad linked input"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_setting_that_comfyui_does_not_check_itself(
    client: Client, small: Small, path: Path, node: str, inputs: dict[str, Any], words: str
) -> None:
    graph = workflow.set_inputs(small(path), node, **inputs)
    with pytest.raises(ClientError, match=words):
        client.queue(graph)
    request = urllib.request.Request(client.url + "/prompt", json.dumps({"prompt": graph}).encode())
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    answer = caught.value.read().decode()
    assert len(answer) < 20_000 and "expected string" not in answer
