"""What is computed again in a real server, and what is not: exactly what changed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools import workflow
from tools.client import Client, Result

API = Path(__file__).resolve().parents[2] / "workflows" / "api"
VARIATION, SAVE, LOAD = (
    API / f"{name}.json"
    for name in ("image_variation", "save_reference_and_conditioning", "load_reference_and_conditioning")
)

Small = Callable[..., workflow.Workflow]


def pixels(client: Client, result: Result) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(client.fetch(result.images[0]))).convert("RGB"), dtype=np.float32) / 255


def ran(graph: workflow.Workflow, result: Result) -> set[str]:
    return {graph[key]["class_type"] for key in result.ran} - {graph[key]["class_type"] for key in result.cached}


def test_only_the_prompt_changes(client: Client, small: Small) -> None:
    """The picture is another one and the reference is not read again; back to the first prompt, the first picture."""
    cat = workflow.set_inputs(small(VARIATION, seed=51), "CLIPTextEncode", text="a red cat")
    dog = workflow.set_inputs(cat, "CLIPTextEncode", text="a blue dog at night")
    first = pixels(client, client.run(cat))
    result = client.run(dog)
    second = pixels(client, result)

    assert np.abs(first - second).mean() > 1e-3
    assert {"CLIPTextEncode", "ReduxApply", "SamplerCustomAdvanced"} <= ran(dog, result)
    assert not {"ReduxLoader", "ReduxEncode", "UNETLoader"} & ran(dog, result)
    assert np.array_equal(pixels(client, client.run(cat)), first)


def test_strength_0_runs_nothing_that_makes_a_reference(client: Client, small: Small) -> None:
    """Not even loading; a file that is missing there would not stop it. Raised, everything runs."""
    content = io.BytesIO()  # a picture of its own, which no earlier run has left in a cache
    Image.effect_noise((40, 56), 80).convert("RGB").save(content, "PNG")
    name = client.upload(content.getvalue(), "never-read.png")
    graph = workflow.set_inputs(small(VARIATION, seed=57), "LoadImage", image=name)
    graph = workflow.set_inputs(graph, "ReduxApply", strength=0.0)
    result = client.run(graph)
    assert result.images and "ReduxApply" in ran(graph, result)
    assert not {"ReduxLoader", "ReduxEncode"} & {graph[key]["class_type"] for key in result.ran}
    graph = workflow.set_inputs(graph, "ReduxApply", strength=0.5)
    result = client.run(graph)
    assert {"ReduxEncode", "ReduxApply"} <= {graph[key]["class_type"] for key in result.ran}
    assert client.run(graph).images


def test_only_the_reference_changes(client: Client, small: Small) -> None:
    graph = small(VARIATION, seed=52)
    first = pixels(client, client.run(graph))
    content = io.BytesIO()
    Image.effect_noise((64, 96), 90).convert("RGB").save(content, "PNG")
    other = workflow.set_inputs(graph, "LoadImage", image=client.upload(content.getvalue(), "noise.png"))
    result = client.run(other)
    assert np.abs(pixels(client, result) - first).mean() > 1e-3
    assert "ReduxEncode" in ran(other, result) and "ReduxLoader" not in ran(other, result)


def test_each_setting_of_a_reference_counts(client: Client, small: Small) -> None:
    """No setting is left out of what ComfyUI compares."""
    graph = small(VARIATION, seed=53)
    pictures = [pixels(client, client.run(graph))]
    for values in (
        {"strength": 0.3},
        {"end_percent": 0.5},
        {"curve": "linear down"},
        {"blocks": "single:=0.2"},
    ):
        pictures.append(pixels(client, client.run(workflow.set_inputs(graph, "ReduxApply", **values))))
    for fit in ({"fit": "pad"}, {"fit": "crop", "fit.position": "left"}, {"fit": "crop", "fit.position": "right"}):
        pictures.append(pixels(client, client.run(workflow.set_inputs(graph, "ReduxEncode", **fit))))
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            assert np.abs(one - other).mean() > 1e-4


def newest(client: Client, node: str) -> str:
    spec = client.object_info(node)[node]["input"]["required"]["file"]
    kind = "conditioning" if "Conditioning" in node else "reference"
    return str(sorted(name for name in workflow.list_choices(spec) or [] if f"redux/{kind}_" in name)[-1])


def test_a_loaded_conditioning_makes_the_picture_it_was_saved_for(client: Client, small: Small) -> None:
    """Without a text encoder and a vision tower; the reference that the graph adds to it is at strength 0."""
    saved = pixels(client, client.run(small(SAVE, seed=54)))
    load = workflow.set_inputs(small(LOAD, seed=54), "ReduxApply", strength=0.0)
    for node in ("ReduxLoadTokens", "ReduxLoadConditioning"):
        load = workflow.set_inputs(load, node, file=newest(client, node))
    result = client.run(load)
    assert np.array_equal(pixels(client, result), saved)
    assert not {"ReduxLoader", "ReduxEncode", "CLIPTextEncode"} & {node["class_type"] for node in load.values()}
    assert (
        np.abs(pixels(client, client.run(workflow.set_inputs(load, "ReduxApply", strength=1.0))) - saved).mean() > 1e-3
    )
