"""Shared graphs before and after conversion: the figures of docs/coming-from.md, on the miniature in a real host.

    python -m pytest tests/host/test_moving.py -s                    # prints a line a graph
    REDUX_FULL=1 python -m pytest tests/host/test_moving.py -s -k nearest    # the whole table of multiply, some minutes

Figures are mean differences of pixels, of 255. "Equal" on the page means at most 0.255, that is 1e-3.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import old_graphs
import pytest
import torch
from old_graphs import Graph, Runner, with_apply
from PIL import Image
from test_miniature import first, mini, second  # noqa: F401
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
EQUAL = 0.255
FULL = bool(os.environ.get("REDUX_FULL"))
PLAIN = {"strength": 1.0, "strength_type": "multiply"}
ADVANCED = {"downsampling_factor": 2.0, "downsampling_function": "area", "weight": 1.0}
ADVANCED |= {"mode": "center crop (square)"}


def bias(strength: float) -> dict[str, Any]:
    return {"strength": strength, "strength_type": "attn_bias"}


@pytest.fixture(scope="module")
def convert(pack: Any) -> Callable[..., Any]:
    return importlib.import_module(f"{pack.__name__}.convert").convert


@pytest.fixture(scope="module")
def run(mini: Any, first: Tensor, second: Tensor) -> Any:  # noqa: F811
    photo = np.asarray(Image.open(ROOT / "workflows" / "input" / "cat.jpg").convert("RGB"), dtype=np.float32) / 255
    pictures = {"first.png": first, "second.png": second, "cat.jpg": torch.from_numpy(photo)[None]}
    with pytest.MonkeyPatch.context() as patch:
        yield Runner(mini, pictures, patch)


def distance(run: Runner, before: Graph, after: Graph) -> float:
    with torch.inference_mode():
        return float((run(before) - run(after)).abs().mean()) * 255


EQUAL_GRAPHS = {
    "Apply Style Model": with_apply("StyleModelApply", PLAIN),
    "crop none, a picture of 3:2": with_apply("StyleModelApply", PLAIN, crop="none", image="cat.jpg"),
    "attn_bias 0.3": with_apply("StyleModelApply", bias(0.3)),
    "two in a chain": with_apply("StyleModelApply", PLAIN, PLAIN),
    "KJNodes, strength 1": with_apply("StyleModelApplyAdvanced", {"strength": 1.0}),
    "AdvancedRefluxControl, simple, medium": with_apply("StyleModelApplySimple", {"image_strength": "medium"}),
    "AdvancedRefluxControl, factor 2": with_apply("ReduxAdvanced", ADVANCED),
    "AdvancedRefluxControl, factor 1": with_apply("ReduxAdvanced", {**ADVANCED, "downsampling_factor": 1.0}),
}


@pytest.mark.parametrize("name", EQUAL_GRAPHS)
def test_what_the_page_calls_equal_is(run: Runner, convert: Callable[..., Any], name: str) -> None:
    before = EQUAL_GRAPHS[name]
    after = convert(before).workflow
    kinds = {node["class_type"] for node in after.values()}
    assert {"ReduxLoader", "ReduxEncode", "ReduxApply"} <= kinds
    assert not kinds & {"CLIPVisionLoader", "StyleModelLoader", "CLIPVisionEncode", *old_graphs.OLD}
    found = distance(run, before, after)
    print(f"\n{name}: {found:.3f}")
    assert found < EQUAL


def test_the_encoder_kept_is_exact_where_a_crop_differs_by_half_a_pixel(
    run: Runner, convert: Callable[..., Any]
) -> None:
    before = with_apply("StyleModelApply", PLAIN, image="cat.jpg")
    kept, ours = convert(before, keep_encoder=True), convert(before)
    assert "half a pixel" in ours.notes[0] and not kept.notes
    found = [distance(run, before, result.workflow) for result in (kept, ours)]
    print(f"\ncentre crop of 3:2: encoder kept {found[0]:.4f}, ours {found[1]:.3f}")
    assert found[0] < EQUAL / 25 and EQUAL < found[1] < 10 * EQUAL


def test_biases_in_a_chain_differ(run: Runner, convert: Callable[..., Any]) -> None:
    before = with_apply("StyleModelApply", bias(0.4), bias(0.6))
    after = convert(before)
    found = distance(run, before, after.workflow)
    print(f"\nattn_bias 0.4 and 0.6 in a chain: {found:.2f}")
    assert 4 * EQUAL < found < 10
    assert any("chain" in note for note in after.notes)


OTHERS = {
    "AdvancedRefluxControl, simple, high": ("StyleModelApplySimple", {"image_strength": "high"}, "first.png", 15),
    "AdvancedRefluxControl, factor 3 of 8": (
        "ReduxAdvanced", {**ADVANCED, "downsampling_factor": 3.0}, "first.png", 40,
    ),
    "AdvancedRefluxControl, keep aspect ratio": (
        "ReduxAdvanced", {**ADVANCED, "mode": "keep aspect ratio"}, "cat.jpg", 20,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_only_near_is_noted(run: Runner, convert: Callable[..., Any], name: str) -> None:
    kind, settings, image, most = OTHERS[name]
    before = with_apply(kind, settings, image=image)
    after = convert(before)
    found = distance(run, before, after.workflow)
    print(f"\n{name}: {found:.1f}, {after.notes}")
    assert after.notes and EQUAL < found < most


def test_nearest_strength_of_multiply(run: Runner, convert: Callable[..., Any]) -> None:
    """The converter's strength is at most one place from the best of the list, and even the best is far from equal."""
    factors = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0, 2.0) if FULL else (0.3, 0.7)
    strengths = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0)
    strengths = strengths if FULL else (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
    cases = [("red apple, large, center", "first.png"), ("flat style, green background", "second.png")]
    cases = [*cases, ("yellow star, small", "first.png"), ("", "second.png")] if FULL else cases[1:]
    table = np.zeros((len(factors), len(strengths)))
    for (prompt, image), row in ((case, row) for case in cases for row in range(len(factors))):
        before = with_apply("StyleModelApply", {**PLAIN, "strength": factors[row]}, prompt=prompt, image=image)
        for column, strength in enumerate(strengths):
            after = convert(with_apply("StyleModelApply", bias(strength), prompt=prompt, image=image)).workflow
            table[row, column] += distance(run, before, after) / len(cases)
    print("\nfactor " + " ".join(f"{strength:6.2f}" for strength in strengths))
    for factor, row in zip(factors, table, strict=True):
        print(f"{factor:6.2f} " + " ".join(f"{found:6.1f}" for found in row))
    for factor, row in zip(factors, table, strict=True):
        if 0.2 <= factor < 1:
            graph = convert(with_apply("StyleModelApply", {**PLAIN, "strength": factor})).workflow
            chosen = np.abs(np.array(strengths) - graph["apply"]["inputs"]["strength"]).argmin()
            assert abs(int(chosen) - int(row.argmin())) <= 1, (factor, row)
            assert row.min() > 4 * EQUAL


def test_swarms_merge_strength_is_multiply(comfy: Any) -> None:
    """ConditioningAverage of a conditioning with tokens and the same without, as SwarmUI wires them."""
    text, tokens = comfy.conditioning(seed=1), torch.randn(1, 16, comfy.sizes.context)
    (styled,) = old_graphs.append(text, tokens)
    merged = comfy.nodes.ConditioningAverage().addWeighted(styled, text, 0.3)[0]
    (expected,) = old_graphs.append(text, 0.3 * tokens)
    assert torch.allclose(merged[0][0], expected[0][0], atol=1e-6)


def test_layout_of_our_nodes_is_that_of_their_schemas(pack: Any, redux_nodes: dict[str, Any]) -> None:
    """A saved graph keeps widgets by position: names, types, defaults and optionality as ComfyUI announces them."""
    specs = importlib.import_module(f"{pack.__name__}.convert.specs")
    for kind, new in specs.NEW.items():
        if kind not in redux_nodes:
            continue
        schema = redux_nodes[kind].GET_SCHEMA()
        described = {**new.sockets, **{name: type_ for name, (type_, _) in new.widgets.items()}}
        found = {input.id: input.get_io_type() + ("?" if input.optional else "") for input in schema.inputs}
        assert described == found, kind
        widgets = [name for name in found if name in new.widgets]
        assert widgets == list(new.widgets), kind
        defaults = {input.id: getattr(input, "default", None) for input in schema.inputs}
        chosen = {"vision_name", "redux_name", "fit", "response"}  # the converter always says these
        for name in new.widgets.keys() - chosen:
            assert new.widgets[name][1] == defaults[name], (kind, name)
        assert [output.get_io_type() for output in schema.outputs] == list(new.outputs.values())
    assert redux_nodes["ReduxApply"].validate_inputs(strength=specs.STRONGEST) is True
    assert "10 is needed" in redux_nodes["ReduxApply"].validate_inputs(strength=specs.STRONGEST + 0.001)
    assert specs.NEW["ReduxApply"].widgets["response"][1] == "weight"
