"""What the converter must know of nodes: which old ones there are, and how ours are laid out in a saved graph.

A saved graph keeps widgets by position, so their order matters; a test compares ours with the nodes' schemas.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Old:
    """A node that may be replaced.

    Attributes:
        widgets: name and default of each widget, in the order of `widgets_values`. Graphs that are older than a
            widget lack its value and mean the default.
        from_image: reads CLIP_VISION and IMAGE itself instead of a CLIP_VISION_OUTPUT.
        pack: where the node comes from, for people.
    """

    widgets: dict[str, Any]
    from_image: bool = False
    pack: str = "ComfyUI"


@dataclass(frozen=True)
class New:
    """A node of ours, or of ComfyUI, that a converted graph gets.

    Attributes:
        sockets: type by name, in order; "?" ends the type of an optional one.
        widgets: type and default by name, in order.
        outputs: type by name.
        size: width and height on the page.
        prefix: what a child of a dynamic widget is called by, e.g. fit.position.
    """

    sockets: dict[str, str]
    widgets: dict[str, tuple[str, Any]]
    outputs: dict[str, str]
    size: tuple[int, int]
    children: dict[str, dict[str, tuple[str, Any]]] = field(default_factory=dict)


APPLY: dict[str, Old] = {
    "StyleModelApply": Old({"strength": 1.0, "strength_type": "multiply"}),
    "StyleModelApplyAdvanced": Old({"strength": 1.0}, pack="KJNodes"),
    "StyleModelApplySimple": Old({"image_strength": "medium"}, pack="AdvancedRefluxControl"),
    "ReduxAdvanced": Old(
        {
            "downsampling_factor": 3.0,
            "downsampling_function": "area",
            "mode": "center crop (square)",
            "weight": 1.0,
            "autocrop_margin": 0.1,
        },
        from_image=True,
        pack="AdvancedRefluxControl",
    ),
}
STRONGEST = 10.0  # what Apply Redux takes, though its slider ends at 2
ENCODE = "CLIPVisionEncode"
VISION_LOADER, STYLE_LOADER = "CLIPVisionLoader", "StyleModelLoader"
OTHERS: dict[str, Old] = {
    ENCODE: Old({"crop": "center"}),
    VISION_LOADER: Old({"clip_name": None}),
    STYLE_LOADER: Old({"style_model_name": None}),
    "PrimitiveNode": Old({"value": None}),
}
OLD = {**APPLY, **OTHERS}
OLD_OUTPUTS = {"ReduxAdvanced": ("CONDITIONING", "IMAGE", "MASK")}

NEW: dict[str, New] = {
    "ReduxLoader": New(
        {},
        {"vision_name": ("COMBO", ""), "redux_name": ("COMBO", ""), "dtype": ("COMBO?", "default")},
        {"redux": "REDUX_MODEL"},
        (320, 106),
    ),
    "ReduxEncode": New(
        {"redux": "REDUX_MODEL", "image": "IMAGE", "mask": "MASK?"},
        {
            "fit": ("COMFY_DYNAMICCOMBO_V3", "stretch"),
            "crop_to_mask": ("BOOLEAN?", False),
            "margin": ("FLOAT?", 0.1),
        },
        {"tokens": "REDUX_TOKENS"},
        (270, 420),
        {"crop": {"fit.position": ("COMBO", "center")}},
    ),
    "ReduxFromClipVision": New(
        {"style_model": "STYLE_MODEL", "clip_vision_output": "CLIP_VISION_OUTPUT"},
        {},
        {"tokens": "REDUX_TOKENS"},
        (270, 46),
    ),
    "ReduxPool": New(
        {"tokens": "REDUX_TOKENS"},
        {"rows": ("INT", 9), "columns": ("INT", 9)},
        {"tokens": "REDUX_TOKENS"},
        (270, 82),
    ),
    "ReduxApply": New(
        {"conditioning": "CONDITIONING", "tokens": "REDUX_TOKENS", "region": "MASK?"},
        {
            "strength": ("FLOAT", 1.0),
            "normalize": ("BOOLEAN?", True),
            "start_percent": ("FLOAT?", 0.0),
            "end_percent": ("FLOAT?", 1.0),
            "curve": ("COMBO?", "constant"),
            "batch": ("COMBO?", "joint"),
            "blocks": ("STRING?", ""),
            "response": ("COMBO?", "weight"),  # what a strength means in all old nodes
            "preset": ("COMBO?", "none"),
        },
        {"CONDITIONING": "CONDITIONING"},
        (270, 242),
    ),
    ENCODE: New(
        {"clip_vision": "CLIP_VISION", "image": "IMAGE"},
        {"crop": ("COMBO", "center")},
        {"CLIP_VISION_OUTPUT": "CLIP_VISION_OUTPUT"},
        (270, 78),
    ),
}


def widgets_of(kind: str, values: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Type and value of each widget of a new node, children of a dynamic one included, in the page's order."""
    new = NEW[kind]
    out: dict[str, tuple[str, Any]] = {}
    for name, (type_, default) in new.widgets.items():
        out[name] = type_, values.get(name, default)
        if type_ == "COMFY_DYNAMICCOMBO_V3":
            for child, (child_type, child_default) in new.children.get(out[name][1], {}).items():
                out[child] = child_type, values.get(child, child_default)
    return out
