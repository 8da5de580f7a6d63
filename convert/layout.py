"""Room for nodes that have grown or are new: what they would cover moves down, and groups grow with their nodes."""

from __future__ import annotations

from typing import Any

from .page_form import pair
from .page_graph import PageGraph

TITLE, GAP = 30, 20


def boxes(graph: PageGraph) -> dict[int, tuple[float, float, float, float]]:
    """left, top, right, bottom of each node, title included."""
    out = {}
    for key, node in graph.nodes.items():
        (x, y), (width, height) = pair(node.get("pos")), pair(node.get("size"))
        if (node.get("flags") or {}).get("collapsed"):
            height = 0
        out[key] = (x, y - TITLE, x + width, y + height)
    return out


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def make_room(graph: PageGraph, before: dict[int, tuple[float, float, float, float]]) -> None:
    """Move down what the changed nodes cover, and did not cover before; then what those cover."""
    members = _members(graph, before)
    todo, done = list(dict.fromkeys(graph.touched)), set()
    todo = [key for key in todo if key in graph.nodes]
    todo.sort(key=lambda key: pair(graph.nodes[key]["pos"])[1])
    while todo:
        key = todo.pop(0)
        done.add(key)
        box = boxes(graph)[key]
        for other, its in boxes(graph).items():
            if other in done or not overlap(box, its):
                continue
            if key in before and other in before and overlap(before[key], before[other]):
                continue
            node = graph.nodes[other]
            node["pos"] = [pair(node["pos"])[0], box[3] + TITLE + GAP]
            todo.append(other)
    _grow_groups(graph, members)


def _members(graph: PageGraph, before: dict[int, tuple[float, float, float, float]]) -> list[tuple[dict, list[int]]]:
    """Each group and the nodes whose middle lies in it; new nodes belong where their neighbour does."""
    out = []
    for group in graph.data.get("groups") or []:
        left, top, width, height = group["bounding"]
        inside = [
            key
            for key, (x0, y0, x1, y1) in before.items()
            if left <= (x0 + x1) / 2 <= left + width and top <= (y0 + y1) / 2 <= top + height
        ]
        out.append((group, inside + [new for new, beside in graph.added.items() if beside in inside]))
    return out


def _grow_groups(graph: PageGraph, members: list[tuple[dict[str, Any], list[int]]]) -> None:
    now = boxes(graph)
    for group, keys in members:
        inside = [now[key] for key in keys if key in now]
        left, top, width, height = group["bounding"]
        right = max([left + width, *(box[2] + GAP / 2 for box in inside)])
        bottom = max([top + height, *(box[3] + GAP / 2 for box in inside)])
        group["bounding"] = [left, top, right - left, bottom - top]
