"""The converter of graphs in API form, and as a command on files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_graphs import (
    APPLY_DEFAULTS,
    ENCODE_DEFAULTS,
    LINK_KEYS,
    LOADED,
    STYLE,
    VISION,
    Page,
    simple_page,
)

from convert import ConvertError, convert
from convert.__main__ import report

ROOT = Path(__file__).resolve().parents[2]


def api_graph() -> dict[str, Any]:
    return {
        "1": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": VISION}},
        "2": {"class_type": "StyleModelLoader", "inputs": {"style_model_name": STYLE}},
        "3": {"class_type": "CLIPVisionEncode", "inputs": {"clip_vision": ["1", 0], "image": ["9", 0], "crop": "none"}},
        "4": {"class_type": "StyleModelApply", "inputs": {"conditioning": ["8", 0], "style_model": ["2", 0],
              "clip_vision_output": ["3", 0], "strength": 0.5, "strength_type": "attn_bias"}},
        "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["7", 0]}},
        "9": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
    }  # fmt: skip


def test_api_form() -> None:
    before = api_graph()
    result = convert(before)
    assert before == api_graph() and not result.notes
    after = result.workflow
    assert set(after) == {"1", "3", "4", "8", "9"}
    assert after["1"] == {"class_type": "ReduxLoader", "inputs": LOADED[2]}
    assert after["3"]["inputs"] == {"redux": ["1", 0], "image": ["9", 0], "fit": "stretch", **ENCODE_DEFAULTS}
    expected = {"conditioning": ["8", 0], "tokens": ["3", 0], "strength": 0.5, "normalize": True, **APPLY_DEFAULTS}
    assert after["4"]["inputs"] == expected


WRONG = {
    "no JSON": ("{", "is no JSON"),
    "a list": ("[]", "This is no workflow of ComfyUI"),
    "another object": ('{"a": 1}', "This is no workflow of ComfyUI"),
    "empty": ("{}", "This is no workflow of ComfyUI"),
    "nothing in it": ('{"1": {"class_type": "LoadImage", "inputs": {}}}', "There is nothing to convert"),
    "too deep": ("[" * 5000, "is no JSON"),
    "not finished": ('{"1": {"class_type": "LoadImage", "inp', "is no JSON"),
    "too many digits": ("9" * 5000, "is no JSON"),
    "damaged": ('{"nodes": [{"id": 1, "type": "StyleModelApply", "inputs": 3}], "links": [[1]]}', "is damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    text, words = WRONG[name]
    path = tmp_path / "workflow.json"
    path.write_text(text)
    done = command(str(path))
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["workflow.json"]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "tools.convert", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, env=variables)


def test_the_command_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(api_graph()))
    for expected in ("mine-redux.json", "mine-redux-2.json"):
        done = command(str(path))
        assert done.returncode == 0 and expected in done.stdout and "Everything was carried over." in done.stdout
        assert "ReduxApply" in (tmp_path / expected).read_text()
    assert json.loads(path.read_text()) == api_graph()
    done = command(str(path), "-o", str(path))
    assert done.returncode == 1 and "nothing is overwritten" in done.stderr
    assert json.loads(path.read_text()) == api_graph()
    missing = command(str(tmp_path / "none.json"))
    assert missing.returncode == 1 and "cannot be read" in missing.stderr


def test_a_published_pack_has_the_converter() -> None:
    """`tools` is left out of the archive; `convert` is not, and needs no other folder of the pack."""
    ignored = (ROOT / ".comfyignore").read_text().split()
    assert "/tools/" in ignored and "/convert/" not in ignored
    script = "import convert, sys; print([n for n in sys.modules if n.split('.')[0] in ('torch', 'redux', 'tools')])"
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_files_of_other_editors_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(api_graph()), encoding)
    done = command(str(path))
    assert done.returncode == 0 and (tmp_path / "mine-redux.json").exists(), done.stderr


def test_half_a_pair_of_surrogates_is_carried_over(tmp_path: Path) -> None:
    """A text that a program cut in the middle of an emoji; UTF-8 has none of it."""
    before = api_graph()
    before["8"]["inputs"]["text"], before["4"]["_meta"] = "a cat \ud83d", {"title": "猫 \udc31"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(before))
    for encoding in ("utf-8", "ascii"):
        done = command(str(path), "-o", str(tmp_path / encoding), PYTHONIOENCODING=encoding)
        assert done.returncode == 0 and "\\udc31" in done.stdout, done.stderr
        after = json.loads((tmp_path / encoding).read_text("utf-8"))
        assert after == convert(before).workflow and after["8"]["inputs"]["text"] == "a cat \ud83d"


def test_nothing_stays_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(api_graph()))
    full = ["bash", "-c", 'ulimit -f 0; exec "$@"', "-", sys.executable, "-m", "convert", str(path)]
    done = subprocess.run(full, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "cannot be written" in done.stderr and done.stderr.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.json"]


def test_damaged_is_an_error_of_its_own() -> None:
    with pytest.raises(ConvertError, match="damaged"):
        convert({"nodes": [{"id": 1, "type": "StyleModelApply"}], "links": [[1, 2]]})


@pytest.mark.parametrize("name", ["conditioning", "style_model", "clip_vision_output"])
def test_a_link_that_is_not_there_is_named(name: str) -> None:
    page, ids = simple_page()
    slot = next(slot for slot in page.of(ids["apply"])["inputs"] if slot["name"] == name)
    workflow = page.workflow()
    workflow["links"] = [link for link in page.links if link[0] != slot["link"]]
    with pytest.raises(ConvertError) as caught:
        convert(workflow)
    found = f"{name} of node {ids['apply']} has the link {slot['link']}, which is not among the links"
    assert str(caught.value) == f"The workflow is damaged ({found}); open it in ComfyUI and save it anew."


def whole_graphs() -> list[Any]:
    """The page's form, with reroutes, a subgraph and a group node; and API form."""
    page, ids = simple_page("ReduxAdvanced", 3, "area", "center crop (square)", 1, 0.1)
    core, names = simple_page()
    reroute = core.node("Reroute")
    core.link(names["text"], reroute, "")
    second = core.node("StyleModelApply", 0.5, "attn_bias")
    core.link(reroute, second, "conditioning")
    core.link(names["style"], second, "style_model")
    core.link(names["encode"], second, "clip_vision_output")
    core.link(core.node("PrimitiveNode", 0.5), second, "strength")
    inner, _ = simple_page("StyleModelApplySimple", "low")
    definition = inner.workflow(name="Reference", inputs=[], state={"lastNodeId": 20, "lastLinkId": 20})
    definition |= {"id": "1f0c", "links": [dict(zip(LINK_KEYS, link, strict=True)) for link in inner.links]}
    outer = Page(first=100)
    outer.node("1f0c", properties={"proxyWidgets": [["6", "strength"], ["5", "crop"]]})
    groups = {"groupNodes": {"redux": {"nodes": [{"type": "StyleModelApply"}]}}, "linkExtensions": [{"id": 9}]}
    boxed = core.workflow(extra=groups, groups=[{"bounding": [0, 0, 400, 900]}], reroutes=[{"id": 1, "linkIds": [8]}])
    return [page.workflow(), boxed, outer.workflow(definitions={"subgraphs": [definition]}), api_graph()]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each place in a JSON value: what holds it, and its key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


ODD = [None, -1, 0, 3, 10**400, float("nan"), float("inf"), True, "", "x", "\ud800\n" * 200, [], [1], {}, {"id": 1}]


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_a_damaged_graph_is_converted_or_refused_in_one_sentence(data: st.DataObject) -> None:
    workflow = data.draw(st.sampled_from(whole_graphs()))
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = data.draw(st.sampled_from(places(workflow) or [({"": 0}, "")]))
        if data.draw(st.booleans()):
            del holder[key]
        else:
            holder[key] = data.draw(st.sampled_from(ODD))
    try:
        result = convert(workflow)
    except ConvertError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and len(text) < 300
    else:
        assert report(result) and json.dumps(result.workflow)
