"""Every API workflow of the pack through a real server, and what a user meets when something is wrong."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools import workflow
from tools.client import Client, ClientError, Interrupted, Progress
from tools.server import Server

ROOT = Path(__file__).resolve().parents[2]
FULL_SIZE = {"core_loaders"}  # ComfyUI's own loader knows no small SigLIP; tests/host compares both node paths
CALIBRATE = ROOT / "workflows" / "api" / "calibrate.json"  # which makes no picture
API_FILES = sorted((ROOT / "workflows" / "api").glob("*.json"))
FILES = [path for path in API_FILES if path.stem not in FULL_SIZE and path != CALIBRATE]
SAVE = ROOT / "workflows" / "api" / "save_reference_and_conditioning.json"
VARIATION = ROOT / "workflows" / "api" / "image_variation.json"

Small = Callable[..., workflow.Workflow]


def pixels(client: Client, image: dict[str, str]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(client.fetch(image))).convert("RGB"), dtype=np.float32) / 255


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_api_workflow_gives_a_picture_and_progress(path: Path, client: Client, small: Small) -> None:
    if path.stem.startswith("load_"):
        client.run(small(SAVE, seed=11))
    steps: list[Progress] = []
    result = client.run(small(path, seed=11 + FILES.index(path)), steps.append)  # an equal graph would be cached

    assert result.images
    for image in result.images:
        picture = pixels(client, image)
        assert picture.shape == (128, 128, 3) or re.match("redux_(influence|sweep)", image["filename"])
        assert picture.std() > 0.02
    sampled = [step for step in steps if "Sampler" in step.node_type]
    assert [step.value for step in sampled] == sorted(step.value for step in sampled)
    assert (sampled[-1].value, sampled[-1].max) == (3, 3)


def test_a_calibration_makes_presets_that_are_offered_at_once(client: Client, small: Small) -> None:
    settings = {"minutes": 0.1, "steps": 1, "side": 64, "cases": 1, "contents": "a cat\na boat", "styles": "ink\noil"}
    graph = workflow.set_inputs(small(CALIBRATE), "ReduxCalibrate", **settings)
    steps: list[Progress] = []
    result = client.run(graph, steps.append)
    (report,) = result.outputs["5"]["text"]
    assert re.search(r"presets_00001_.json: presets for \S+, \d+ pictures.*\nstyle: .*\ncomposition: ", report)
    mine = [step for step in steps if step.node_type == "ReduxCalibrate"]
    assert mine[-1].value == mine[-1].max > 70
    choices = workflow.list_choices(client.object_info("ReduxApply")["ReduxApply"]["input"]["optional"]["preset"])
    assert choices is not None and "style: redux/presets_00001_.json [output]" in choices


def test_strength_reaches_the_picture(client: Client, small: Small) -> None:
    """Nothing, half, all of the reference: three pictures, and nothing is exactly the picture without Redux."""
    graph = small(VARIATION)
    by_strength = {
        strength: pixels(client, client.run(workflow.set_inputs(graph, "ReduxApply", strength=strength)).images[0])
        for strength in (0.0, 0.5, 1.0)
    }
    apply = next(key for key, node in graph.items() if node["class_type"] == "ReduxApply")
    text = graph[apply]["inputs"]["conditioning"]
    without = {key: node for key, node in graph.items() if key != apply}
    for node in without.values():
        node["inputs"] = {key: text if value == [apply, 0] else value for key, value in node["inputs"].items()}
    plain = pixels(client, client.run(without).images[0])

    assert np.array_equal(by_strength[0.0], plain)
    assert np.abs(by_strength[1.0] - plain).mean() > 1e-3
    assert np.abs(by_strength[0.5] - plain).mean() > 1e-4
    assert np.abs(by_strength[0.5] - by_strength[1.0]).mean() > 1e-4


def test_second_run_reuses_what_did_not_change(client: Client, small: Small) -> None:
    client.run(small(VARIATION, seed=21))
    graph = small(VARIATION, seed=22)
    again = client.run(graph)

    ran = {graph[key]["class_type"] for key in again.ran}
    reused = {graph[key]["class_type"] for key in again.cached}
    assert "SamplerCustomAdvanced" in ran
    assert {"ReduxLoader", "ReduxEncode", "ReduxApply", "UNETLoader"} <= reused - ran


def test_interrupt_ends_the_prompt_and_not_the_server(client: Client, small: Small) -> None:
    graph = workflow.set_inputs(small(VARIATION, seed=31), "BasicScheduler", steps=5000)
    started = threading.Event()

    def interrupt(_: Progress) -> None:
        if not started.is_set():
            started.set()
            client.interrupt()

    with pytest.raises(Interrupted):
        client.run(graph, interrupt)
    assert client.run(small(VARIATION, seed=32)).images


BAD_FILES = {
    "truncated.safetensors": "vision_name",
    "empty.safetensors": "vision_name",
    "flux.safetensors": "vision_name",
    "no-metadata.safetensors": "vision_name",
    "other-width.safetensors": "redux_name",
}


@pytest.mark.parametrize(("name", "where"), BAD_FILES.items(), ids=BAD_FILES)
def test_wrong_model_file_is_one_sentence(name: str, where: str, client: Client, small: Small, server: Server) -> None:
    with pytest.raises(ClientError) as caught:
        client.run(workflow.set_inputs(small(VARIATION), "ReduxLoader", **{where: name}))

    check_sentence(caught.value, "ReduxLoader")
    if name != "other-width.safetensors":
        assert name in str(caught.value)
    assert server.explain_end() is None


def test_missing_model_file_is_refused_before_anything_runs(client: Client, small: Small) -> None:
    with pytest.raises(ClientError, match="no-such-file") as caught:
        client.run(workflow.set_inputs(small(VARIATION), "ReduxLoader", vision_name="no-such-file.safetensors"))
    assert caught.value.node_type == "ReduxLoader"


@pytest.mark.parametrize("size", [(1, 1), (3, 2)], ids=str)
def test_picture_of_a_few_pixels(size: tuple[int, int], client: Client, small: Small) -> None:
    """It is encoded, or refused in one sentence; either way the server goes on."""
    content = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(content, "PNG")
    name = client.upload(content.getvalue(), f"tiny-{size[0]}.png")
    try:
        assert client.run(workflow.set_inputs(small(VARIATION), "LoadImage", image=name)).images
    except ClientError as error:
        check_sentence(error, "ReduxEncode")
    assert client.run(small(VARIATION, seed=41)).images


def test_a_file_that_is_no_picture(client: Client, small: Small) -> None:
    name = client.upload(b"this is text", "text.png")
    with pytest.raises(ClientError):
        client.run(workflow.set_inputs(small(VARIATION), "LoadImage", image=name))
    assert client.run(small(VARIATION, seed=42)).images


@pytest.mark.parametrize(
    ("values", "part"),
    [({"strength": -1.0}, "-1"), ({"strength": 1e9}, "1000000000"), ({"start_percent": 2.0}, "acts from 2 to 1")],
    ids=str,
)
def test_value_out_of_range_is_refused(values: dict[str, float], part: str, client: Client, small: Small) -> None:
    with pytest.raises(ClientError, match=re.escape(part)) as caught:
        client.run(workflow.set_inputs(small(VARIATION), "ReduxApply", **values))
    assert caught.value.node_type == "ReduxApply"


def check_sentence(error: ClientError, node_type: str) -> None:
    message = str(error).removeprefix(f"{node_type}: ")
    assert error.node_type == node_type
    assert message.endswith(".")
    assert "\n" not in message
    assert 20 < len(message) < 400
    assert "Traceback" not in message and "size mismatch" not in message
