"""The converter on graphs of other packs and of any shape, and within subgraphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_graphs import (
    APPLY_DEFAULTS,
    BORDER_IN,
    BORDER_OUT,
    ENCODE_DEFAULTS,
    LINK_KEYS,
    LOADED,
    STYLE,
    VISION,
    Page,
    check,
    kinds,
    node,
    said,
    simple_page,
    values,
)

from convert import convert

ROOT = Path(__file__).resolve().parents[2]


def advanced_page(*widgets: Any) -> tuple[Any, dict[str, int]]:
    page = Page()
    ids = {
        "text": page.node("CLIPTextEncode", "a prompt"),
        "vision": page.node("CLIPVisionLoader", VISION),
        "style": page.node("StyleModelLoader", STYLE),
        "image": page.node("LoadImage", "cat.png", "image"),
        "apply": page.node("ReduxAdvanced", *(widgets or (3, "area", "center crop (square)", 1, 0.1))),
        "sampler": page.node("Sampler"),
    }
    page.link(ids["text"], ids["apply"], "conditioning")
    page.link(ids["style"], ids["apply"], "style_model")
    page.link(ids["vision"], ids["apply"], "clip_vision")
    page.link(ids["image"], ids["apply"], "image")
    page.link(ids["apply"], ids["sampler"], "positive")
    return page, ids


def test_a_read_picture_of_redux_advanced_keeps_it() -> None:
    page, ids = advanced_page()
    page.link(ids["apply"], page.node("PreviewImage"), "images", output=1)
    result = convert(page.workflow())
    assert not result.converted and "its output IMAGE goes to" in result.notes[0]


def test_redux_advanced_becomes_four_nodes() -> None:
    page, ids = advanced_page(2.9, "area", "autocrop with mask", 0.5, 0.2)
    page.link(ids["image"], ids["apply"], "mask", output=1)
    result = convert(page.workflow())
    check(result.workflow)
    kind, _, apply = said(result.workflow, ids["sampler"], "positive")
    assert kind == "ReduxApply" and apply["normalize"] is False and 0 < apply["strength"] < 1
    assert apply["tokens"][0] == "ReduxPool" and apply["tokens"][2]["rows"] == round(27 / 2.9)
    encode = apply["tokens"][2]["tokens"][2]
    assert (encode["fit"], encode["crop_to_mask"], encode["margin"]) == ("pad", True, 0.2)
    assert encode["mask"][:2] == ("LoadImage", 1) and encode["redux"] == LOADED
    assert [node["type"] for node in result.workflow["nodes"]].count("ReduxLoader") == 1
    assert any("weight" in note for note in result.notes) and any("margin" in note for note in result.notes)


@pytest.mark.parametrize(("name", "side"), [(VISION, 9), ("siglip2_so400m_patch16_512.safetensors", 11)])
def test_pooling_knows_the_tower_by_its_name(name: str, side: int) -> None:
    page, _ = advanced_page()
    page.of(2)["widgets_values"] = [name]
    after = convert(page.workflow()).workflow
    assert values(node(after, kinds(after)["ReduxPool"][0])) == {"rows": side, "columns": side}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_graphs_of_any_shape_come_to_the_same_chain(data: st.DataObject) -> None:
    """One to four references on one to three pictures, through reroutes and Set/Get, each checked against a plain
    rewriting of what the old graph comes to."""
    page = Page()
    text, vision = page.node("CLIPTextEncode", "a prompt"), page.node("CLIPVisionLoader", VISION)
    style = page.node("StyleModelLoader", STYLE)

    def through(source: int) -> int:
        for kind in data.draw(st.lists(st.sampled_from(["Reroute", "Set"]), max_size=2)):
            if kind == "Reroute":
                reroute = page.node("Reroute")
                page.link(source, reroute, "")
                source = reroute
            else:
                key = f"key {page.next}"
                page.link(source, page.node("SetNode", key), "value")
                source = page.node("GetNode", key)
        return source

    encodes = []
    for index in range(data.draw(st.integers(1, 3))):
        encode = page.node("CLIPVisionEncode", data.draw(st.sampled_from(["center", "none"])))
        page.link(through(vision), encode, "clip_vision")
        page.link(page.node("LoadImage", f"{index}.png", "image"), encode, "image")
        encodes.append(encode)
    conditioning = text
    for _ in range(data.draw(st.integers(1, 4))):
        apply = page.node("StyleModelApply", data.draw(st.sampled_from([0.2, 1.0, 2.0])), "attn_bias")
        page.link(through(conditioning), apply, "conditioning")
        page.link(through(style), apply, "style_model")
        page.link(through(data.draw(st.sampled_from(encodes))), apply, "clip_vision_output")
        conditioning = apply
    sampler = page.node("Sampler")
    page.link(conditioning, sampler, "positive")

    before = page.workflow()
    after = convert(before).workflow
    check(after)
    assert said(after, sampler, "positive") == rewritten(said(before, sampler, "positive"))
    assert not any(item["type"] == "StyleModelLoader" for item in after["nodes"])


def rewritten(expression: Any) -> Any:
    """The new expression for an old one."""
    kind, output, inputs = expression
    if kind != "StyleModelApply":
        return expression
    encode = inputs["clip_vision_output"][2]
    fit = {"fit": "stretch"} if encode["crop"] == "none" else {"fit": "crop", "fit.position": "center"}
    tokens = ("ReduxEncode", 0, {"redux": LOADED, "image": encode["image"], **fit, **ENCODE_DEFAULTS})
    conditioning = rewritten(inputs["conditioning"])
    strength = {"strength": inputs["strength"], "normalize": True}
    return "ReduxApply", output, {"conditioning": conditioning, "tokens": tokens, **strength, **APPLY_DEFAULTS}


def subgraph_page(loaders_inside: bool) -> dict[str, Any]:
    inner, ids = simple_page()
    outer = Page(first=100)
    definition = inner.workflow(name="Reference", inputs=[], outputs=[], state={"lastNodeId": 20, "lastLinkId": 20})
    definition["id"] = "1f0c"
    definition["links"] = [dict(zip(LINK_KEYS, link, strict=True)) for link in inner.links]
    if not loaders_inside:
        link = next(link for link in definition["links"] if link["origin_id"] == ids["vision"])
        definition["nodes"] = [item for item in inner.nodes if item["id"] != ids["vision"]]
        link |= {"origin_id": BORDER_IN, "origin_slot": 0}
        definition["inputs"] = [{"id": "a", "name": "clip_vision", "type": "CLIP_VISION", "linkIds": [link["id"]]}]
    outer.node("1f0c", properties={"proxyWidgets": [["6", "strength"], ["6", "strength_type"], ["5", "crop"]]})
    return outer.workflow(definitions={"subgraphs": [definition]})


@pytest.mark.parametrize("loaders_inside", [True, False])
def test_subgraphs_are_converted_too(loaders_inside: bool) -> None:
    result = convert(subgraph_page(loaders_inside))
    (definition,) = result.workflow["definitions"]["subgraphs"]
    check(definition)
    assert all(isinstance(link, dict) for link in definition["links"])
    found = kinds(definition)
    assert ("ReduxEncode" in found, "ReduxFromClipVision" in found) == (loaders_inside, not loaders_inside)
    assert result.converted[0].startswith('in subgraph "Reference", node 6')
    (instance,) = result.workflow["nodes"]
    kept = [["6", "strength"]] if loaders_inside else [["6", "strength"], ["5", "crop"]]
    assert instance["properties"]["proxyWidgets"] == kept
    assert any("strength_type of node 6 is no longer shown" in note for note in result.notes)
    ids = [item["id"] for graph in (result.workflow, definition) for item in graph["nodes"]]
    assert len(set(ids)) == len(ids) and max(ids) <= result.workflow["last_node_id"]


def test_a_picture_that_leaves_its_subgraph_keeps_its_node() -> None:
    inner, ids = advanced_page()
    definition = inner.workflow(name="Reference", inputs=[], state={"lastNodeId": 20, "lastLinkId": 20})
    definition["id"] = "1f0c"
    definition["links"] = [dict(zip(LINK_KEYS, link, strict=True)) for link in inner.links]
    leaving = (30, ids["apply"], 1, BORDER_OUT, 0, "IMAGE")
    definition["links"].append(dict(zip(LINK_KEYS, leaving, strict=True)))
    inner.of(ids["apply"])["outputs"][1]["links"] = [30]
    definition["outputs"] = [{"id": "a", "name": "IMAGE", "type": "IMAGE", "linkIds": [30]}]
    outer = Page(first=100)
    outer.node("1f0c")
    result = convert(outer.workflow(definitions={"subgraphs": [definition]}))
    assert not result.converted
    assert "its output IMAGE goes to the border of its subgraph" in result.notes[0]


def test_group_nodes_are_named() -> None:
    page, _ = simple_page()
    groups = {"redux": {"nodes": [{"type": "StyleModelApply"}]}}
    assert (
        'The group node "redux" holds StyleModelApply' in convert(page.workflow(extra={"groupNodes": groups})).notes[-1]
    )
