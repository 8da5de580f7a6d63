"""Whole workflows: which form one has, its subgraphs, and what is said about it afterwards."""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .api_graph import ApiGraph
from .graph import DamagedError, short
from .layout import boxes, make_room
from .moves import Moved, Mover
from .page_graph import PageGraph
from .specs import APPLY

LONGEST = 120  # of what an error repeats of a damaged workflow


class ConvertError(ValueError):
    """The file is no workflow, or there is nothing in it to convert; one sentence."""


@dataclass(frozen=True)
class Conversion:
    """workflow: a new one. converted: what was replaced. notes: what was not, or not exactly. One sentence each."""

    workflow: dict[str, Any]
    converted: list[str]
    notes: list[str]


def convert(workflow: Any, keep_encoder: bool = False) -> Conversion:
    """Our nodes in the place of Apply Style Model and its kin; see docs/coming-from.md.

    Args:
        workflow: a parsed workflow, as the page saves it or in API form. It is not changed.
        keep_encoder: keep CLIP Vision Encode and its loaders, with Reference from CLIP Vision behind them. The tokens
            are then ComfyUI's to the last bits, also of pictures that are not square.

    Raises:
        ConvertError: this is no workflow, or none with such nodes.
    """
    form = _form(workflow)
    try:
        copied = copy.deepcopy(workflow)
        moved = (_convert_api if form == "api" else _convert_page)(copied, keep_encoder)
    except Exception as error:  # what is missing or of another kind in a file may break any step
        raise ConvertError(f"The workflow is damaged ({_what(error)}); open it in ComfyUI and save it anew.") from error
    if not moved.converted and not moved.notes:
        known = ", ".join(APPLY)
        raise ConvertError(f"There is nothing to convert in this workflow; it has none of the nodes {known}.")
    return Conversion(copied, moved.converted, moved.notes)


def _what(error: Exception) -> str:
    """An error in one short line."""
    text = str(error) if isinstance(error, DamagedError) else f"{type(error).__name__} {error}"
    return short(text, LONGEST)


def _form(workflow: Any) -> str:
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        if all(isinstance(node, dict) and "id" in node and "type" in node for node in workflow["nodes"]):
            return "page"
    elif isinstance(workflow, dict) and workflow and all(map(_is_api_node, workflow.values())):
        return "api"
    raise ConvertError(
        "This is no workflow of ComfyUI; a file of File > Save or File > Export (API) in ComfyUI is needed."
    )


def _is_api_node(node: Any) -> bool:
    return isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def _convert_api(workflow: dict[str, Any], keep_encoder: bool) -> Moved:
    return Mover(ApiGraph(workflow), keep_encoder).move()


def _convert_page(workflow: dict[str, Any], keep_encoder: bool) -> Moved:
    number = itertools.count(_largest(workflow) + 1)
    total = Moved()
    for place, graph in _graphs(workflow, number):
        before = boxes(graph)
        moved = Mover(graph, keep_encoder).move()
        if moved.converted:
            make_room(graph, before)
            graph.write()
            if "id" in graph.data and graph.data is not workflow:
                moved.notes += _drop_promoted(workflow, graph)
        total.converted += [place + line for line in moved.converted]
        total.notes += [place + line for line in moved.notes]
    if total.converted:
        _raise_last(workflow, next(number) - 1)
        if "id" in workflow:  # another workflow than the one it was made from, for a page that has both open
            workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"redux-control {workflow['id']}"))
    return Moved(total.converted, total.notes + _group_nodes(workflow))


def _graphs(workflow: dict[str, Any], number: Iterator[int]) -> Iterator[tuple[str, PageGraph]]:
    yield "", PageGraph(workflow, number)
    for subgraph in (workflow.get("definitions") or {}).get("subgraphs") or []:
        yield f'in subgraph "{subgraph.get("name", subgraph["id"])}", ', PageGraph(subgraph, number)


def _largest(workflow: dict[str, Any]) -> int:
    """The largest number of a node, link or reroute anywhere, so that new ones are new in every graph."""
    numbers = [0]
    for _, graph in _graphs(workflow, itertools.count()):
        numbers += [key for key in graph.nodes if isinstance(key, int)]
        numbers += list(graph.links)
        state = graph.data.get("state") or {}
        numbers += [value for value in state.values() if isinstance(value, int)]
    return max(numbers + [workflow.get("last_node_id") or 0, workflow.get("last_link_id") or 0])


def _raise_last(workflow: dict[str, Any], last: int) -> None:
    workflow["last_node_id"] = workflow["last_link_id"] = last
    for subgraph in (workflow.get("definitions") or {}).get("subgraphs") or []:
        state = subgraph.get("state")
        if state:
            state["lastNodeId"] = state["lastLinkId"] = last


def _drop_promoted(workflow: dict[str, Any], subgraph: PageGraph) -> list[str]:
    """Widgets of inner nodes that a subgraph's node shows on itself: those that are gone are shown no more."""
    notes = []
    for _, graph in _graphs(workflow, itertools.count()):
        for node in graph.nodes.values():
            shown = (node.get("properties") or {}).get("proxyWidgets")
            if node["type"] != subgraph.data["id"] or not shown:
                continue
            kept = [pair for pair in shown if _is_shown(subgraph, pair)]
            gone = [pair for pair in shown if pair not in kept]
            notes += [f"{widget} of node {inner} is no longer shown on the subgraph's node." for inner, widget in gone]
            node["properties"]["proxyWidgets"] = kept
    return notes


def _is_shown(subgraph: PageGraph, pair: list[Any]) -> bool:
    inner = next((node for key, node in subgraph.nodes.items() if str(key) == str(pair[0])), None)
    if inner is None:
        return str(pair[0]) not in {str(key) for key in subgraph.gone}
    if inner["id"] not in subgraph.touched:
        return True
    return pair[1] in {slot["name"] for slot in inner["inputs"]} or str(pair[1]).startswith("$$")


def _group_nodes(workflow: dict[str, Any]) -> list[str]:
    """Group nodes, the forerunners of subgraphs, keep their nodes in a form of their own."""
    notes = []
    for name, group in ((workflow.get("extra") or {}).get("groupNodes") or {}).items():
        kinds = sorted({node.get("type") for node in group.get("nodes", []) if node.get("type") in APPLY})
        if kinds:
            notes.append(
                f'The group node "{name}" holds {", ".join(kinds)} and stays as it is: turn it into nodes in ComfyUI '
                "and convert again."
            )
    return notes
