"""Room for nodes that have grown or are new: what they would cover moves down, and groups grow with their nodes."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

from .page_form import pair
from .page_graph import PageGraph

TITLE, GAP = 30, 20
Box = tuple[float, float, float, float]


def boxes(graph: PageGraph) -> dict[int, Box]:
    """left, top, right, bottom of each node, title included."""
    return {key: _box(node) for key, node in graph.nodes.items()}


def _box(node: dict[str, Any]) -> Box:
    (x, y), (width, height) = pair(node.get("pos")), pair(node.get("size"))
    if (node.get("flags") or {}).get("collapsed"):
        height = 0
    return x, y - TITLE, x + width, y + height


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def make_room(graph: PageGraph, before: dict[int, Box]) -> None:
    """Move down what the changed nodes cover, and did not cover before; then what those cover.

    From the top down, so that a node whose turn has come is moved no more.
    """
    members = _members(graph, before)
    now, settled, order = boxes(graph), set[int](), itertools.count()
    todo = [(now[key][1], next(order), key) for key in dict.fromkeys(graph.touched) if key in now]
    heapq.heapify(todo)

    def move(key: int, below: float) -> None:
        node = graph.nodes[key]
        node["pos"] = [pair(node["pos"])[0], below + TITLE + GAP]
        now[key] = _box(node)
        heapq.heappush(todo, (now[key][1], next(order), key))

    while todo:
        top, _, key = heapq.heappop(todo)
        if key in settled or top != now[key][1]:  # it has been moved since, and stands in the list once more
            continue
        covered = _covered(key, now, before)
        taken = [now[other][3] for other in covered if other in settled]
        if taken:
            move(key, max(taken))
            continue
        settled.add(key)
        for other in covered:
            move(other, now[key][3])
    _grow_groups(graph, members)


def _covered(key: int, now: dict[int, Box], before: dict[int, Box]) -> list[int]:
    """The nodes that a node covers and did not cover before."""
    box, old = now[key], before.get(key)
    found = [other for other, its in now.items() if other != key and overlap(box, its)]
    return [other for other in found if old is None or other not in before or not overlap(old, before[other])]


def _members(graph: PageGraph, before: dict[int, Box]) -> list[tuple[dict, list[int]]]:
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
