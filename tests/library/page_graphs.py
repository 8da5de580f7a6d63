"""Graphs as ComfyUI's page saves them, built for tests; and what they come to when the page queues them."""

from __future__ import annotations

from typing import Any

WIDGETS = {
    "CLIPVisionLoader": ["clip_name"],
    "StyleModelLoader": ["style_model_name"],
    "CLIPVisionEncode": ["crop"],
    "StyleModelApply": ["strength", "strength_type"],
    "StyleModelApplyAdvanced": ["strength"],
    "StyleModelApplySimple": ["image_strength"],
    "ReduxAdvanced": ["downsampling_factor", "downsampling_function", "mode", "weight", "autocrop_margin"],
}
SOCKETS = {
    "CLIPVisionEncode": ["clip_vision", "image"],
    "StyleModelApply": ["conditioning", "style_model", "clip_vision_output"],
    "StyleModelApplyAdvanced": ["conditioning", "style_model", "clip_vision_output"],
    "StyleModelApplySimple": ["conditioning", "style_model", "clip_vision_output"],
    "ReduxAdvanced": ["conditioning", "style_model", "clip_vision", "image", "mask"],
    "Sampler": ["positive"],
    "unCLIPConditioning": ["conditioning", "clip_vision_output"],
    "PreviewImage": ["images"],
    "Reroute": [""],
    "SetNode": ["value"],
}
OUTPUTS = {
    "CLIPVisionLoader": ["CLIP_VISION"],
    "StyleModelLoader": ["STYLE_MODEL"],
    "CLIPVisionEncode": ["CLIP_VISION_OUTPUT"],
    "LoadImage": ["IMAGE", "MASK"],
    "ReduxAdvanced": ["CONDITIONING", "IMAGE", "MASK"],
    "Reroute": ["*"],
    "GetNode": ["*"],
    "SetNode": ["*"],
    "PrimitiveNode": ["*"],
    "Sampler": [],
    "PreviewImage": [],
}
BORDER_IN, BORDER_OUT = -10, -20
LINK_KEYS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")  # of a subgraph's links


class Page:
    """page.node(kind, *widgets) -> id; page.link(source, target, input name). Nodes stand in a column, with gaps."""

    def __init__(self, first: int = 1) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.next = first

    def node(self, kind: str, *widgets: Any, mode: int = 0, **more: Any) -> int:
        number, self.next = self.next, self.next + 1
        names = SOCKETS.get(kind, [])
        node = {"id": number, "type": kind, "pos": [0, 150 * len(self.nodes)], "size": [300, 90], "mode": mode}
        node |= {"flags": {}, "order": 0, "properties": {}, "widgets_values": list(widgets)}
        node["inputs"] = [{"name": name, "type": "*", "link": None} for name in names]
        outputs = OUTPUTS.get(kind, ["CONDITIONING"])
        node["outputs"] = [{"name": name, "type": name, "links": None} for name in outputs]
        self.nodes.append({**node, **more})
        return number

    def link(self, source: int, target: int, name: str, output: int = 0) -> int:
        number, self.next = self.next, self.next + 1
        into = self.of(target)
        slot = next((slot for slot in into["inputs"] if slot["name"] == name), None)
        if slot is None:  # a widget turned into an input
            slot = {"name": name, "type": "*", "widget": {"name": name}}
            into["inputs"].append(slot)
        slot["link"] = number
        kind = self.of(source)["outputs"][output]
        kind["links"] = [*(kind["links"] or []), number]
        self.links.append([number, source, output, target, into["inputs"].index(slot), kind["type"]])
        return number

    def of(self, number: int) -> dict[str, Any]:
        return next(node for node in self.nodes if node["id"] == number)

    def workflow(self, **more: Any) -> dict[str, Any]:
        last = self.next - 1
        return {"id": "x", "nodes": self.nodes, "links": self.links, "groups": [], "last_node_id": last,
                "last_link_id": last, "config": {}, "extra": {}, "version": 0.4, **more}  # fmt: skip


def check(graph: dict[str, Any]) -> None:
    """Every link stands in both its ends and nowhere else; numbers are single; new wires have one type."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = [[link[key] for key in LINK_KEYS] if isinstance(link, dict) else link for link in graph["links"]]
    assert len(nodes) == len(graph["nodes"]) and len({link[0] for link in links}) == len(links)
    for number, source, output, target, slot, kind in links:
        if source != BORDER_IN:
            given = nodes[source]["outputs"][output]
            assert number in given["links"]
            assert given["type"] == kind or "*" in (given["type"], kind) or not _is_ours(nodes[source])
        if target != BORDER_OUT:
            read = nodes[target]["inputs"][slot]
            assert read["link"] == number
            assert read["type"] == kind or "*" in (read["type"], kind) or not _is_ours(nodes[target])
    known = {link[0] for link in links}
    for node in nodes.values():
        assert {slot["link"] for slot in node["inputs"]} <= {None, *known}
        assert {link for slot in node["outputs"] for link in slot["links"] or []} <= known


def _is_ours(node: dict[str, Any]) -> bool:
    return str(node["type"]).startswith("Redux")


def said(graph: dict[str, Any], node: int, name: str) -> Any:
    """What an input comes to when the graph is queued, as a nested expression: (kind, {input: expression or value})."""
    nodes = {item["id"]: item for item in graph["nodes"]}
    links = {link[0]: link for link in graph["links"]}

    def source(number: int, slot_name: str) -> tuple[int, int] | None:
        slot = next(slot for slot in nodes[number]["inputs"] if slot["name"] == slot_name)
        return None if slot["link"] is None else (links[slot["link"]][1], links[slot["link"]][2])

    def express(place: tuple[int, int] | None) -> Any:
        if place is None:
            return None
        item = nodes[place[0]]
        kind, values = item["type"], item["widgets_values"]
        if kind == "Reroute":
            return express(source(place[0], item["inputs"][0]["name"]))
        if kind == "GetNode":
            setter = next(n for n in nodes.values() if n["type"] == "SetNode" and n["widgets_values"] == values)
            return express(source(setter["id"], "value"))
        if kind == "PrimitiveNode":
            return values[0]
        if item["mode"] == 4:  # bypassed: the input of the output's type goes through
            return express(source(place[0], "conditioning")) if "conditioning" in _names(item) else None
        names = WIDGETS.get(kind) or [slot["name"] for slot in item["inputs"] if "widget" in slot]
        said_: dict[str, Any] = dict(zip(names, values, strict=False))
        said_ |= {slot["name"]: express(source(place[0], slot["name"])) for slot in item["inputs"]
                  if slot["link"] is not None}  # fmt: skip
        return kind, place[1], said_

    return express(source(node, name))


def _names(item: dict[str, Any]) -> list[str]:
    return [slot["name"] for slot in item["inputs"]]


VISION, STYLE = "sigclip_vision_patch14_384.safetensors", "flux1-redux-dev.safetensors"
ENCODE_DEFAULTS = {"crop_to_mask": False, "margin": 0.1}
APPLY_DEFAULTS = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant", "batch": "joint", "blocks": ""}
APPLY_DEFAULTS |= {"response": "weight", "preset": "none"}  # explicit, whatever a new node begins with
LOADED = ("ReduxLoader", 0, {"vision_name": VISION, "redux_name": STYLE, "dtype": "default"})


def kinds(workflow: dict[str, Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for node in workflow["nodes"]:
        found.setdefault(node["type"], []).append(node["id"])
    return found


def node(workflow: dict[str, Any], number: int) -> dict[str, Any]:
    return next(item for item in workflow["nodes"] if item["id"] == number)


def values(item: dict[str, Any]) -> dict[str, Any]:
    names = [slot["name"] for slot in item["inputs"] if "widget" in slot]
    return dict(zip(names, item["widgets_values"], strict=True))


def simple_page(kind: str = "StyleModelApply", *widgets: Any, crop: str = "center") -> tuple[Any, dict[str, int]]:
    """One reference: loaders, picture, encoder, apply, sampler."""
    page = Page()
    ids = {
        "text": page.node("CLIPTextEncode", "a prompt"),
        "vision": page.node("CLIPVisionLoader", VISION),
        "style": page.node("StyleModelLoader", STYLE),
        "image": page.node("LoadImage", "cat.png", "image"),
        "encode": page.node("CLIPVisionEncode", crop),
        "apply": page.node(kind, *(widgets or (1.0, "multiply"))),
        "sampler": page.node("Sampler"),
    }
    page.link(ids["vision"], ids["encode"], "clip_vision")
    page.link(ids["image"], ids["encode"], "image")
    page.link(ids["text"], ids["apply"], "conditioning")
    page.link(ids["style"], ids["apply"], "style_model")
    page.link(ids["encode"], ids["apply"], "clip_vision_output")
    page.link(ids["apply"], ids["sampler"], "positive")
    return page, ids
