"""Graphs as the page saves them (litegraph's form), or one subgraph of such a graph.

Links are lists in a graph and objects in a subgraph; both name the inputs' positions, so a node that changes its
inputs has its links numbered anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .graph import WIRED, DamagedError, Graph
from .page_form import Link, new_slots, pair, properties_of, read_link, write_link
from .specs import NEW, OLD, widgets_of

PASSES = ("Reroute", "GetNode", "SetNode")
DISPLAY = {
    "Apply Style Model", "Style Model Apply Advanced", "Apply style model (simple)", "Apply Redux model (advanced)",
    "CLIP Vision Encode", "Load CLIP Vision", "Load Style Model",
}  # fmt: skip


class PageGraph(Graph):
    """Args:
    data: the graph or subgraph, changed by `write`.
    number: gives numbers of nodes and links that no graph of the workflow has.
    """

    def __init__(self, data: dict[str, Any], number: Iterator[int]) -> None:
        self.data, self.number = data, number
        self.nodes: dict[int, dict[str, Any]] = {node["id"]: node for node in data["nodes"]}
        self.links = {link.id: link for link in map(read_link, data.get("links") or [])}
        self.touched: list[int] = []  # nodes that are new or have changed, for the layout
        self.added: dict[int, int] = {}  # new nodes, and beside which
        self.gone: list[int] = []

    def ids(self) -> list[int]:
        return list(self.nodes)

    def kind(self, node: int) -> str:
        return str(self.nodes[node]["type"]) if node in self.nodes else ""

    def name(self, node: int) -> str:
        if node not in self.nodes:
            return "the border of its subgraph"
        return f'node {node} "{self.nodes[node].get("title") or self.kind(node)}"'

    def mode(self, node: int) -> int:
        return int(self.nodes[node].get("mode") or 0)

    def value(self, node: int, widget: str) -> Any:
        defaults = OLD[self.kind(node)].widgets
        origin = self.origin(node, widget)
        if origin is not None:
            constant = self.nodes.get(origin[0], {})
            values = constant.get("widgets_values") or []
            known = str(constant.get("type", "")).startswith("Primitive") and isinstance(values, list) and values
            return values[0] if known else WIRED
        values = self.nodes[node].get("widgets_values") or []
        if isinstance(values, dict):
            return values.get(widget, defaults[widget])
        index = list(defaults).index(widget)
        return values[index] if index < len(values) else defaults[widget]

    def wired(self, node: int, name: str) -> bool:
        return self._link_into(node, name) is not None

    def origin(self, node: int, name: str) -> tuple[int, int] | None:
        link = self._link_into(node, name)
        for _ in range(len(self.links) + 1):
            if link is None:
                return None
            kind = self.kind(link.source)
            if kind not in PASSES:
                return link.source, link.output
            passer = self._setter(link.source) if kind == "GetNode" else link.source
            link = None if passer is None else next(self._links_into(passer), None)
        return None

    def ends(self, node: int, output: int) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        todo, seen = [(node, output)], set()
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            for link in self._links_from(*place):
                if self.kind(link.target) in PASSES:
                    todo += [(after, 0) for after in (link.target, *self._getters(link.target))]
                else:
                    found.append((link.target, self._input_name(link)))
        return found

    def take(self, node: int, name: str) -> Link | None:
        link = self._link_into(node, name)
        if link is not None:
            self._slots(node)[link.slot]["link"] = None
            link.target = link.slot = -1
        return link

    def plug(self, wire: Link, node: int, name: str) -> None:
        slots = self._slots(node)
        wire.target, wire.slot = node, next(i for i, slot in enumerate(slots) if slot["name"] == name)
        wire.kind = slots[wire.slot]["type"]
        slots[wire.slot]["link"] = wire.id

    def connect(self, source: int, output: int, node: int, name: str) -> None:
        wire = Link(next(self.number), source, output, -1, -1, None, {})
        self.links[wire.id] = wire
        slot = self.nodes[source]["outputs"][output]
        slot["links"] = [*(slot.get("links") or []), wire.id]
        self.plug(wire, node, name)

    def drop(self, wire: Link) -> None:
        del self.links[wire.id]
        source = self.nodes.get(wire.source)
        if source is None:  # the border of a subgraph keeps its own list
            border = self.data.get("inputs", [])
            border[wire.output]["linkIds"] = [key for key in border[wire.output].get("linkIds", []) if key != wire.id]
            return
        slot = source["outputs"][wire.output]
        slot["links"] = [key for key in slot.get("links") or [] if key != wire.id]
        if source["type"] in PASSES and not any(self._links_from(wire.source, 0)):
            self._drop_passer(wire.source)

    def become(self, node: int, kind: str, values: Mapping[str, Any]) -> list[str]:
        struct, new = self.nodes[node], NEW[kind]
        widgets = widgets_of(kind, dict(values))
        wires = {slot["name"]: self._link_into(node, slot["name"]) for slot in self._slots(node)}
        kept = {name: wire for name, wire in wires.items() if wire is not None}
        lost = [name for name in kept if name not in new.sockets and name not in widgets]
        for name in lost:
            self.take(node, name)
            self.drop(kept.pop(name))
        struct["inputs"] = new_slots(kind, widgets)
        for index, slot in enumerate(struct["inputs"]):
            if slot["name"] in kept:
                slot["link"], kept[slot["name"]].slot = kept[slot["name"]].id, index
        links = [output.get("links") for output in struct.get("outputs") or []]
        struct["outputs"] = [
            {"name": name, "type": type_, "links": links[index] if index < len(links) else None}
            for index, (name, type_) in enumerate(new.outputs.items())
        ]
        struct["type"], struct["widgets_values"] = kind, [value for _, value in widgets.values()]
        struct["properties"] = properties_of(struct.get("properties") or {}, kind)
        if struct.get("title") in DISPLAY:
            del struct["title"]
        struct["size"] = [max(new.size[0], *pair(struct.get("size"))[:1]), new.size[1]]
        self.touched.append(node)
        return lost

    def add(self, kind: str, values: Mapping[str, Any], beside: int) -> int:
        neighbour, node = self.nodes[beside], next(self.number)
        x, y = pair(neighbour["pos"])
        pos = [x, y + pair(neighbour.get("size"))[1] + 60]
        struct = {"id": node, "type": kind, "pos": pos, "size": list(NEW[kind].size), "flags": {}}
        struct |= {"order": neighbour.get("order", 0), "mode": neighbour.get("mode", 0), "properties": {}}
        self.nodes[node] = struct
        self.data["nodes"].append(struct)
        self.become(node, kind, values)
        self.added[node] = beside
        return node

    def remove(self, node: int) -> None:
        for slot in self._slots(node):
            wire = self.take(node, slot["name"]) if slot.get("link") is not None else None
            if wire is not None:
                self.drop(wire)
        self.data["nodes"].remove(self.nodes.pop(node))
        self.gone.append(node)

    def retype(self, node: int, output: int, kind: str) -> None:
        todo, seen = [node], set()
        while todo:
            place = todo.pop()
            if place in seen:
                continue
            seen.add(place)
            if place != node:
                self.nodes[place]["outputs"][0]["type"] = kind
            for link in self._links_from(place, output if place == node else 0):
                link.kind = kind
                if self.kind(link.target) in PASSES:
                    slot = self._slots(link.target)[link.slot]
                    slot["type"] = slot["type"] if slot["type"] == "*" else kind
                    todo += [link.target, *self._getters(link.target)]

    def write(self) -> None:
        """Put links and last numbers back into the data."""
        as_objects = any(isinstance(link, dict) for link in self.data.get("links") or []) or "inputNode" in self.data
        self.data["links"] = [write_link(link, as_objects) for link in self.links.values()]
        for place, key in ((self.data, "linkIds"), (self.data.get("extra") or {}, "linkIds")):
            if "reroutes" in place:  # points on a link; those of a link that is gone have nothing to hold
                for point in place["reroutes"]:
                    point[key] = [link for link in point.get(key) or [] if link in self.links]
        extensions = (self.data.get("extra") or {}).get("linkExtensions")
        if extensions is not None:
            self.data["extra"]["linkExtensions"] = [item for item in extensions if item["id"] in self.links]

    def _slots(self, node: int) -> list[dict[str, Any]]:
        return list(self.nodes[node].get("inputs") or [])

    def _links_into(self, node: int) -> Iterator[Link]:
        return (link for link in self.links.values() if link.target == node)

    def _links_from(self, node: int, output: int) -> Iterator[Link]:
        return (link for link in list(self.links.values()) if (link.source, link.output) == (node, output))

    def _link_into(self, node: int, name: str) -> Link | None:
        link = next((slot.get("link") for slot in self._slots(node) if slot["name"] == name), None)
        if link is not None and link not in self.links:
            raise DamagedError(f"{name} of node {node} has the link {link}, which is not among the links")
        return None if link is None else self.links[link]

    def _input_name(self, link: Link) -> str:
        slots = self._slots(link.target) if link.target in self.nodes else []
        return str(slots[link.slot]["name"]) if 0 <= link.slot < len(slots) else ""

    def _key(self, node: int) -> Any:
        return (self.nodes[node].get("widgets_values") or [None])[0]

    def _setter(self, getter: int) -> int | None:
        return next((n for n in self.nodes if self.kind(n) == "SetNode" and self._key(n) == self._key(getter)), None)

    def _getters(self, setter: int) -> list[int]:
        if self.kind(setter) != "SetNode":
            return []
        return [n for n in self.nodes if self.kind(n) == "GetNode" and self._key(n) == self._key(setter)]

    def _drop_passer(self, node: int) -> None:
        """A reroute, Get or Set that nobody reads any more."""
        if self._getters(node):
            return
        setter = self._setter(node) if self.kind(node) == "GetNode" else None
        self.remove(node)
        if setter is not None and not any(self._links_from(setter, 0)):
            self._drop_passer(setter)
