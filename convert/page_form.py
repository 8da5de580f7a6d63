"""How the page writes the parts of a graph: links, inputs, properties, positions and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .specs import NEW

OPTIONAL_SHAPE = 7
KEYS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")  # of a link that is an object


@dataclass
class Link:
    id: int
    source: int
    output: int
    target: int
    slot: int
    kind: Any
    more: dict[str, Any]


def read_link(link: Any) -> Link:
    if isinstance(link, dict):
        more = {key: value for key, value in link.items() if key not in KEYS}
        values = [link[key] for key in KEYS]
    else:
        more, values = {}, link
    return Link(values[0], values[1], values[2], values[3], values[4], values[5], more)


def write_link(link: Link, as_object: bool) -> Any:
    values = (link.id, link.source, link.output, link.target, link.slot, link.kind)
    if not as_object:
        return list(values)
    return {**dict(zip(KEYS, values, strict=True)), **link.more}


def new_slots(kind: str, widgets: Mapping[str, tuple[str, Any]]) -> list[dict[str, Any]]:
    """Sockets first, then an input for each widget, as the page writes them."""
    slots = []
    for name, type_ in (*NEW[kind].sockets.items(), *((name, type_) for name, (type_, _) in widgets.items())):
        slot: dict[str, Any] = {"name": name, "type": type_.rstrip("?"), "link": None}
        if type_.endswith("?"):
            slot["shape"] = OPTIONAL_SHAPE
        if name in widgets:
            slot["widget"] = {"name": name}
        slots.append(slot)
    return slots


def properties_of(old: Mapping[str, Any], kind: str) -> dict[str, Any]:
    kept = {key: value for key, value in old.items() if key not in ("cnr_id", "aux_id", "ver")}
    return {**kept, "Node name for S&R": kind, "cnr_id": "redux-control" if kind.startswith("Redux") else "comfy-core"}


def pair(value: Any) -> tuple[float, float]:
    """A position or size: a list, or an object with the keys "0" and "1" in old files."""
    if isinstance(value, dict):
        value = [value["0"], value["1"]]
    return (float(value[0]), float(value[1])) if value else (0.0, 0.0)
