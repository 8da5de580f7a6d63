"""The converter of shared graphs: chains of *Apply Style Model*. What the pictures are is tested in tests/host."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
from page_graphs import (
    APPLY_DEFAULTS,
    ENCODE_DEFAULTS,
    LOADED,
    STYLE,
    VISION,
    check,
    kinds,
    node,
    said,
    simple_page,
    values,
)

from convert import convert, layout
from convert.layout import boxes, overlap
from convert.page_form import pair
from convert.page_graph import PageGraph

ROOT = Path(__file__).resolve().parents[2]


def test_a_chain_becomes_three_nodes_in_the_old_places() -> None:
    page, ids = simple_page()
    before = page.workflow()
    result = convert(before)
    after = result.workflow
    check(after)
    new = {"vision": "ReduxLoader", "encode": "ReduxEncode", "apply": "ReduxApply"}
    stay = {"text": "CLIPTextEncode", "image": "LoadImage", "sampler": "Sampler"}
    assert kinds(after) == {kind: [ids[name]] for name, kind in (new | stay).items()}
    assert node(after, ids["vision"])["pos"] == node(before, ids["vision"])["pos"]
    assert values(node(after, ids["vision"])) == LOADED[2]
    assert values(node(after, ids["encode"])) == {"fit": "crop", "fit.position": "center", **ENCODE_DEFAULTS}
    assert values(node(after, ids["apply"])) == {"strength": 1.0, "normalize": True, **APPLY_DEFAULTS}
    assert result.converted == [f'node {ids["apply"]} "StyleModelApply" is now Apply Redux.']
    assert after["id"] != before["id"]


def test_what_is_passed_in_stays_as_it_is() -> None:
    page, _ = simple_page()
    before = page.workflow()
    kept = copy.deepcopy(before)
    convert(before)
    assert before == kept


def test_the_newest_and_the_oldest_way_of_saving_widgets_agree() -> None:
    """New pages give every widget an input; old ones lack values of widgets that came later, and sizes are objects."""
    page, ids = simple_page()
    new = copy.deepcopy(page.workflow())
    for name in ("strength", "strength_type"):
        node(new, ids["apply"])["inputs"].append({"name": name, "type": "*", "widget": {"name": name}, "link": None})
    old = page.workflow()
    node(old, ids["apply"])["widgets_values"] = []
    node(old, ids["encode"]).pop("widgets_values")
    node(old, ids["apply"])["size"] = {"0": 300, "1": 90}
    results = [convert(graph).workflow for graph in (new, old)]
    assert said(results[0], ids["sampler"], "positive") == said(results[1], ids["sampler"], "positive")


@pytest.mark.parametrize("mode", [0, 2, 4])
def test_muted_and_bypassed_nodes_stay_so(mode: int) -> None:
    page, ids = simple_page("StyleModelApplySimple", "medium")
    for name in ("apply", "encode"):
        page.of(ids[name])["mode"] = mode
    after = convert(page.workflow()).workflow
    assert [node(after, ids[name])["mode"] for name in ("apply", "encode")] == [mode, mode]
    (pool,) = kinds(after)["ReduxPool"]
    assert node(after, pool)["mode"] == mode and values(node(after, pool)) == {"rows": 9, "columns": 9}
    if mode == 4:
        assert said(after, ids["sampler"], "positive") == said(page.workflow(), ids["sampler"], "positive")


@pytest.mark.parametrize("mode", [2, 4])
def test_a_chain_that_runs_does_not_read_a_loader_that_does_not(mode: int) -> None:
    """Workflows hold a group for each reference, loaders included, and mute those that are not wanted."""
    page, ids = simple_page()
    for name in ("vision", "style", "encode", "apply"):
        page.of(ids[name])["mode"] = mode
    vision, style = page.node("CLIPVisionLoader", VISION), page.node("StyleModelLoader", STYLE)
    encode, apply, sampler = (
        page.node("CLIPVisionEncode", "none"),
        page.node("StyleModelApply", 1.0),
        page.node("Sampler"),
    )
    for source, target, name in ((vision, encode, "clip_vision"), (style, apply, "style_model"),
                                 (encode, apply, "clip_vision_output"), (apply, sampler, "positive")):  # fmt: skip
        page.link(source, target, name)
    after = convert(page.workflow()).workflow
    check(after)
    assert said(after, sampler, "positive")[2]["tokens"][2]["redux"] == LOADED
    assert sorted(node(after, number)["mode"] for number in kinds(after)["ReduxLoader"]) == [0, mode]


def test_other_readers_of_the_encoder_keep_it() -> None:
    page, ids = simple_page()
    other = page.node("unCLIPConditioning", 1.0, 0.0)
    page.link(ids["encode"], other, "clip_vision_output")
    after = convert(page.workflow()).workflow
    check(after)
    assert "ReduxLoader" not in kinds(after) and kinds(after)["StyleModelLoader"] == [ids["style"]]
    tokens = said(after, ids["sampler"], "positive")[2]["tokens"]
    assert tokens[0] == "ReduxFromClipVision" and tokens[2]["clip_vision_output"][0] == "CLIPVisionEncode"
    assert said(after, other, "clip_vision_output") == said(page.workflow(), other, "clip_vision_output")


def test_other_readers_of_a_loader_keep_it() -> None:
    page, ids = simple_page()
    other, previewed = page.node("CLIPVisionEncode", "none"), page.node("unCLIPConditioning", 1.0, 0.0)
    page.link(ids["vision"], other, "clip_vision")
    page.link(ids["image"], other, "image")
    page.link(other, previewed, "clip_vision_output")
    after = convert(page.workflow()).workflow
    check(after)
    assert kinds(after)["CLIPVisionLoader"] == [ids["vision"]] and "StyleModelLoader" not in kinds(after)
    assert len(kinds(after)["ReduxLoader"]) == 1
    assert said(after, previewed, "clip_vision_output") == said(page.workflow(), previewed, "clip_vision_output")


def test_a_name_by_wire_keeps_the_loaders() -> None:
    page, ids = simple_page()
    page.link(page.node("SomeText", "x"), ids["style"], "style_model_name")
    after = convert(page.workflow()).workflow
    check(after)
    assert "ReduxFromClipVision" in kinds(after) and "ReduxLoader" not in kinds(after)


def test_numbers_by_wire_stay_wired_and_choices_by_wire_are_set() -> None:
    page, ids = simple_page("StyleModelApply", 0.4, "attn_bias", crop="center")
    number = page.node("PrimitiveNode", 0.7, "fixed")
    crop = page.node("PrimitiveNode", "none", "fixed")
    page.link(number, ids["apply"], "strength")
    page.link(crop, ids["encode"], "crop")
    result = convert(page.workflow())
    check(result.workflow)
    _, _, apply = said(result.workflow, ids["sampler"], "positive")
    assert apply["strength"] == 0.7 and apply["tokens"][2]["fit"] == "stretch"
    assert [note for note in result.notes if "crop came by wire" in note]


def test_multiply_by_wire_keeps_the_wire_and_says_so() -> None:
    page, ids = simple_page("StyleModelApplyAdvanced", 0.864)
    page.link(page.node("PrimitiveNode", 0.3, "fixed"), ids["apply"], "strength")
    result = convert(page.workflow())
    assert said(result.workflow, ids["sampler"], "positive")[2]["strength"] == 0.3
    assert any("wired number" in note for note in result.notes)


@pytest.mark.parametrize(("strength", "kept"), [(2.5, 2.5), (10.0, 10.0), (12.0, 10.0)])
def test_a_strength_beyond_ours_is_cut_and_said(strength: float, kept: float) -> None:
    """Ours is more than the slider shows: Apply Style Model's ends at 10."""
    page, ids = simple_page("StyleModelApply", strength, "attn_bias")
    result = convert(page.workflow())
    assert said(result.workflow, ids["sampler"], "positive")[2]["strength"] == kept
    assert any(f"attn_bias {strength:g} is more than" in note for note in result.notes) == (strength > kept)


def test_an_average_behind_the_reference_is_said() -> None:
    page, ids = simple_page()
    average = page.node("ConditioningAverage", 0.1)
    page.link(ids["apply"], average, "conditioning_to")
    assert any("now averages the texts alone" in note for note in convert(page.workflow()).notes)


REFUSED = {
    "a negative factor": (("StyleModelApplyAdvanced", -0.5), "never negative"),
    "a negative weight": (("StyleModelApply", -0.5, "attn_bias"), "never negative"),
    "a strength that is no number": (("StyleModelApply", float("nan"), "attn_bias"), "cannot be read"),
    "a factor that is no number": (("StyleModelApply", float("inf"), "multiply"), "cannot be read"),
    "no division": (("ReduxAdvanced", 0, "area", "center crop (square)", 1.0, 0.1), "cannot be read"),
    "a division without a rest": (("ReduxAdvanced", 100, "area", "center crop (square)", 1.0, 0.1), "cannot be read"),
    "an unknown meaning": (("StyleModelApply", 1.0, "add"), "'add' is not known"),
    "a mode of a newer version": (("ReduxAdvanced", 3, "area", "mirror", 1.0, 0.1), "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_equal_stays_and_is_listed(name: str) -> None:
    (kind, *widgets), words = REFUSED[name]
    page, ids = simple_page()
    other = page.node(kind, *widgets)
    for link, slot in ((ids["style"], "style_model"), (ids["text"], "conditioning")):
        page.link(link, other, slot)
    source = (ids["vision"], "clip_vision") if kind == "ReduxAdvanced" else (ids["encode"], "clip_vision_output")
    page.link(*source[:1], other, source[1])
    result = convert(page.workflow())
    check(result.workflow)
    assert kinds(result.workflow)[kind] == [other]
    assert [note for note in result.notes if words in note and f"node {other} " in note and "stays as it is" in note]
    assert said(result.workflow, other, "style_model") == said(page.workflow(), other, "style_model")


def test_nothing_is_covered_that_was_not_and_groups_grow() -> None:
    page, ids = simple_page()
    top, bottom = (page.of(ids[name])["pos"][1] for name in ("encode", "apply"))
    group = {"title": "Reference", "bounding": [-10, top - 40, 320, bottom - top + 140]}
    after = convert(page.workflow(groups=[group])).workflow
    drawn = list(boxes(PageGraph(copy.deepcopy(after), iter(()))).values())
    assert not [(a, b) for i, a in enumerate(drawn) for b in drawn[:i] if overlap(a, b)]
    left, up, width, height = after["groups"][0]["bounding"]
    for name in ("encode", "apply"):
        item = node(after, ids[name])
        assert up <= item["pos"][1] and item["pos"][1] + item["size"][1] <= up + height
        assert left <= item["pos"][0] and item["pos"][0] + item["size"][0] <= left + width


def test_room_for_a_long_chain_is_made_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 600 references in one column it took over a minute: each move read the positions of all nodes anew."""
    page, ids = simple_page()
    last = ids["apply"]
    for _ in range(120):
        after = page.node("StyleModelApply", 1.0, "attn_bias")
        page.link(last, after, "conditioning")
        page.link(ids["style"], after, "style_model")
        page.link(ids["encode"], after, "clip_vision_output")
        last = after
    read: list[object] = []
    monkeypatch.setattr(layout, "pair", lambda value: read.append(value) or pair(value))
    places = boxes(PageGraph(convert(page.workflow()).workflow, iter(range(10**6, 10**7))))
    assert len(read) < 100 * len(places)
    assert not any(overlap(a, b) for a, b in itertools.combinations(places.values(), 2))
