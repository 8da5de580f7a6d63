"""Templates and API files against the nodes of the running server: types, links, widget values, coverage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import calibrate, workflow

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
API_FILES = sorted((ROOT / "workflows" / "api").glob("*.json"))
FRONTEND_NODES = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
AFTER_GENERATE = {"fixed", "increment", "decrement", "randomize"}
FILE = re.compile(r"\.(safetensors|sft|png|jpg|jpeg|webp)( \[output\])?$")


def test_the_command_that_calibrates_matches_the_nodes(object_info: dict[str, Any]) -> None:
    given = ["--minutes", "3", "--contents", "a\nb", "--styles", "c\nd", "--steps", "4"]
    check_graph(calibrate.graph(calibrate.parse(given)), object_info)
    check_graph(calibrate.graph(calibrate.parse([])), object_info)


@pytest.mark.parametrize("path", API_FILES, ids=lambda path: path.stem)
def test_api_file_matches_the_nodes(path: Path, object_info: dict[str, Any]) -> None:
    graph = workflow.read(path)
    assert all(node["_meta"]["title"] for node in graph.values())
    check_graph(graph, object_info)


def check_graph(graph: workflow.Workflow, object_info: dict[str, Any]) -> None:
    for key, node in graph.items():
        assert node["class_type"] in object_info, f"node {key}"
        info = object_info[node["class_type"]]["input"]
        specs = {**info.get("required", {}), **info.get("optional", {})}
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                assert value[0] in graph, f"{key}.{name} comes from a node that is not there"
            elif "." not in name:  # "fit.position" belongs to one option of a dynamic input
                check_value(specs[name], value, f"node {key}, {name}")
        given = {name.split(".")[0] for name in node["inputs"]}  # "tokens.reference_0" is one of a growing "tokens"
        missing = set(info.get("required", {})) - given
        assert not missing, f"node {key} lacks {missing}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_matches_the_nodes(path: Path, object_info: dict[str, Any]) -> None:
    template = json.loads(path.read_text("utf-8"))
    subgraphs = {item["id"]: item for item in template.get("definitions", {}).get("subgraphs", [])}
    for node in list_nodes(template):
        if node["type"] in FRONTEND_NODES or node["type"] in subgraphs:
            continue
        assert node["type"] in object_info, f"node {node['id']}"
        info = object_info[node["type"]]["input"]
        specs = {**info.get("required", {}), **info.get("optional", {})}
        for name, value in read_widgets(node):
            if "." not in name and name in specs:
                check_value(specs[name], value, f"node {node['id']} ({node['type']}), {name}")
        linked = {slot["name"].split(".")[0] for slot in node.get("inputs", []) if slot.get("link") is not None}
        widgets = {slot["name"] for slot in node.get("inputs", []) if "widget" in slot}
        missing = set(info.get("required", {})) - linked - widgets
        assert not missing, f"node {node['id']} ({node['type']}) lacks {missing}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_links_are_consistent(path: Path) -> None:
    template = json.loads(path.read_text("utf-8"))
    nodes = {node["id"]: node for node in template["nodes"]}
    assert len(nodes) == len(template["nodes"])
    links = {link[0]: link for link in template["links"]}
    for number, source, output, target, slot, kind in links.values():
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == number
        assert {kind, nodes[source]["outputs"][output]["type"]} == {kind} or "*" in (kind,)
    for node in nodes.values():
        assert all(slot.get("link") in (None, *links) for slot in node.get("inputs", []))
        assert all(link in links for slot in node.get("outputs", []) for link in slot.get("links") or [])
    assert template["last_node_id"] >= max(nodes)
    assert template["last_link_id"] >= max(links)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_has_a_picture(path: Path) -> None:
    """The template browser asks for NAME.jpg and shows a broken image for anything else."""
    assert path.with_suffix(".jpg").read_bytes()[:3] == b"\xff\xd8\xff"


def test_every_node_of_the_pack_is_shown_in_a_workflow(object_info: dict[str, Any]) -> None:
    shown = {node["class_type"] for path in API_FILES for node in workflow.read(path).values()}
    shown |= {node["type"] for path in TEMPLATES for node in list_nodes(json.loads(path.read_text("utf-8")))}
    ours = {name for name, info in object_info.items() if str(info.get("category", "")).split("/")[0] == "redux"}

    assert {"ReduxLoader", "ReduxEncode", "ReduxApply"} <= ours
    assert ours <= shown, f"in no workflow: {sorted(ours - shown)}"


def list_nodes(template: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from template["nodes"]
    for subgraph in template.get("definitions", {}).get("subgraphs", []):
        yield from subgraph["nodes"]


def read_widgets(node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of widget name and value. The frontend puts a seed's "fixed" or "randomize" behind it, without a name."""
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        yield from values.items()
        return
    rest = list(values)
    for slot in node.get("inputs", []):
        if "widget" in slot and rest:
            yield slot["widget"]["name"], rest.pop(0)
            if slot["widget"]["name"] in ("seed", "noise_seed") and rest and rest[0] in AFTER_GENERATE:
                rest.pop(0)


def check_value(spec: Any, value: Any, where: str) -> None:
    """A value against its description in /object_info. Files need not be on this machine."""
    choices = workflow.list_choices(spec)
    if choices is not None:
        assert value in choices or FILE.search(str(value)), f"{where}: {value!r} is not among {choices}"
        return
    kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
    if kind in ("INT", "FLOAT"):
        assert isinstance(value, (int, float)) and not isinstance(value, bool), f"{where}: {value!r}"
        assert options.get("min", value) <= value <= options.get("max", value), f"{where}: {value!r}"
    elif kind in ("STRING", "BOOLEAN"):
        assert isinstance(value, str if kind == "STRING" else bool), f"{where}: {value!r}"
