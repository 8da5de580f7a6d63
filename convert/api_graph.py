"""Graphs in API form: {"41": {"class_type": ..., "inputs": {...}}, ...}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .graph import WIRED, Graph
from .specs import NEW, OLD, widgets_of


def is_wire(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


class ApiGraph(Graph):
    def __init__(self, nodes: dict[str, dict[str, Any]]) -> None:
        self.nodes = nodes

    def ids(self) -> list[str]:
        return list(self.nodes)

    def kind(self, node: str) -> str:
        return str(self.nodes[node]["class_type"]) if node in self.nodes else ""

    def name(self, node: str) -> str:
        title = (self.nodes[node].get("_meta") or {}).get("title") or self.kind(node)
        return f'node {node} "{title}"'

    def mode(self, node: str) -> int:
        return 0  # what is muted or bypassed is not exported

    def value(self, node: str, widget: str) -> Any:
        value = self.nodes[node]["inputs"].get(widget, OLD[self.kind(node)].widgets[widget])
        if not is_wire(value):
            return value
        source = self.nodes.get(value[0], {"class_type": "", "inputs": {}})
        constant = source["inputs"].get("value", WIRED) if source["class_type"].startswith("Primitive") else WIRED
        return WIRED if is_wire(constant) else constant

    def wired(self, node: str, name: str) -> bool:
        return is_wire(self.nodes[node]["inputs"].get(name))

    def origin(self, node: str, name: str) -> tuple[str, int] | None:
        value = self.nodes[node]["inputs"].get(name)
        return (value[0], value[1]) if is_wire(value) else None

    def ends(self, node: str, output: int) -> list[tuple[str, str]]:
        return [
            (other, name)
            for other, struct in self.nodes.items()
            for name, value in struct["inputs"].items()
            if is_wire(value) and (value[0], value[1]) == (node, output)
        ]

    def take(self, node: str, name: str) -> list[Any] | None:
        return self.nodes[node]["inputs"].pop(name) if self.wired(node, name) else None

    def plug(self, wire: list[Any], node: str, name: str) -> None:
        self.nodes[node]["inputs"][name] = list(wire)

    def connect(self, source: str, output: int, node: str, name: str) -> None:
        self.plug([source, output], node, name)

    def drop(self, wire: list[Any]) -> None:
        pass

    def become(self, node: str, kind: str, values: Mapping[str, Any]) -> list[str]:
        struct, widgets = self.nodes[node], widgets_of(kind, dict(values))
        old = struct["inputs"]
        kept = {name: old[name] for name in (*NEW[kind].sockets, *widgets) if is_wire(old.get(name))}
        lost = [name for name, value in old.items() if is_wire(value) and name not in kept]
        struct["inputs"] = {**{name: value for name, (_, value) in widgets.items()}, **kept}
        struct["class_type"] = kind
        struct.pop("_meta", None)
        return lost

    def add(self, kind: str, values: Mapping[str, Any], beside: str) -> str:
        numbers = [int(key) for key in self.nodes if key.isdigit()]
        node = str(max(numbers, default=0) + 1)
        widgets = widgets_of(kind, dict(values))
        self.nodes[node] = {"class_type": kind, "inputs": {name: value for name, (_, value) in widgets.items()}}
        return node

    def remove(self, node: str) -> None:
        del self.nodes[node]

    def retype(self, node: str, output: int, kind: str) -> None:
        pass
