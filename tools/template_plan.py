"""The parts that templates are made of: models, text, references, picture; and where they stand.

A template is a table of columns and bands (rows of the table), so that wires run from left to right; wires that would
pass behind nodes are led around them by `templates.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .workflow import Workflow

GHOST, UMBRELLA = "redux_ghost.png", "redux_umbrella.png"
AUTOMATIC = "automatic"
CONTROLNET = "flux1-dev-controlnet-union-pro-2.safetensors"
STEPS = 20
SMALL_PICTURE = 340  # of Load Image where two stand above one another
BYPASSED, MUTED = 4, 2
# No column is narrower than Nodes 2.0 draws a node.
COLUMNS = (260, 270, 260, 250, 400)
NARROW = (230, 235, 230, 230, 230, 315)  # for a template with a column more
HEIGHTS = {"LoadImage": 380, "ReduxEncode": 380, "SaveImage": 460, "ReduxSaveImage": 490, "CLIPTextEncode": 120}

Link = tuple[str, int]


@dataclass
class Node:
    """A node of a template: its place is a column and a band, its width the column's."""

    kind: str
    title: str
    column: int
    band: int
    inputs: dict[str, Any]
    height: int | None = None
    mode: int = 0
    collapsed: bool = False


@dataclass
class Plan:
    """A template in the making. `app` names what stands in app mode, as (node, widget)."""

    nodes: dict[str, Node] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    app: list[tuple[str, str]] = field(default_factory=list)
    columns: tuple[int, ...] = COLUMNS
    note: tuple[int, int] = (4, 1)  # its first column, and how many columns wide

    def add(self, key: str, kind: str, title: str, place: tuple[int, int], **inputs: Any) -> Link:
        """Add a node; returns its first output. "fit__position" stands for the input "fit.position"."""
        named = {name.replace("__", "."): value for name, value in inputs.items()}
        self.nodes[key] = Node(kind, title, *place, named, HEIGHTS.get(kind))
        return key, 0

    def group(self, title: str, *keys: str) -> None:
        self.groups[title] = list(keys)

    def numbers(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self.nodes, 1)}

    def api(self, modes: tuple[int, ...] = (0,)) -> Workflow:
        """The graph in API format, with the nodes of these modes; links to others are left out."""
        numbers = self.numbers()
        kept = {key: node for key, node in self.nodes.items() if node.mode in modes}

        def value_of(value: Any) -> Any:
            if isinstance(value, tuple) and value[0] not in kept and self.nodes[value[0]].mode == BYPASSED:
                links = [link for link in self.nodes[value[0]].inputs.values() if isinstance(link, tuple)]
                value = links[min(value[1], len(links) - 1)]
            return [str(numbers[value[0]]), value[1]] if isinstance(value, tuple) else value

        return {
            str(numbers[key]): {
                "class_type": node.kind,
                "_meta": {"title": node.title},
                "inputs": {
                    name: value_of(value)
                    for name, value in node.inputs.items()
                    if not isinstance(value, tuple) or self.nodes[value[0]].mode != MUTED or value[0] in kept
                },
            }
            for key, node in kept.items()
        }


def models(plan: Plan, prefer: str = AUTOMATIC, small: bool = False) -> None:
    """The two loaders; `small` collapses the one that nobody changes, where pictures need the room."""
    automatic = {"text_name_1": AUTOMATIC, "text_name_2": AUTOMATIC, "vae_name": AUTOMATIC}
    plan.add("flux", "ReduxLoadFlux", "Load FLUX", (0, 0), model_name=prefer, **automatic)
    plan.add("redux", "ReduxLoader", "Load Redux", (0, 0), vision_name=AUTOMATIC, redux_name=AUTOMATIC)
    plan.nodes["redux"].collapsed = small
    if prefer != AUTOMATIC:
        plan.nodes["flux"].height = 320  # room for the sentence that says what stands in
    plan.group("1  Models", "flux", "redux")


def text(plan: Plan, prompt: str, size_at: tuple[int, int] = (1, 0), **size: Any) -> Link:
    """Prompt, an empty negative, which only a model without built-in guidance reads, and the size."""
    plan.add("prompt", "CLIPTextEncode", "Prompt", (1, 0), clip=("flux", 1), text=prompt)
    plan.add("negative", "CLIPTextEncode", "Negative (empty)", (1, 0), clip=("flux", 1), text="")
    plan.nodes["negative"].collapsed = True
    plan.nodes["redux"] = plan.nodes.pop("redux")  # below the prompt where both stand in one column
    wanted = {"aspect_ratio": "1:1", "megapixels": 1.0, "batch_size": 1, **size}
    plan.add("size", "ReduxSize", "Size", size_at, **wanted, model=("flux", 0))
    keys = ("prompt", "negative", "size") if size_at == (1, 0) else ("prompt", "negative")
    plan.group("3  Prompt and size" if len(keys) == 3 else "3  Prompt", *keys)
    return "prompt", 0


def reference(plan: Plan, number: int, image: str, fit: dict[str, Any] | None = None) -> Link:
    """A picture and its encoder: 0 is the only one, beside each other; 1 and 2 stand side by side, and small."""
    several = {"column": number - 1, "band": 2, "collapsed": True}
    name = f"Reference {number}" if number else "Reference"
    loaded = plan.add(f"image{number or ''}", "LoadImage", name, (max(number - 1, 0), 1), image=image)
    tokens = plan.add(f"encode{number or ''}", "ReduxEncode", f"Encode {name}", (1, 1), redux=("redux", 0),
                      image=loaded, **(fit or {"fit": "stretch"}))  # fmt: skip
    if number:
        vars(plan.nodes[tokens[0]]).update(several)
        plan.nodes[loaded[0]].height = SMALL_PICTURE
    return tokens


def picture(plan: Plan, positive: Link, column: int, **sampler: Any) -> Link:
    """Sampler, decoder and the saved picture, from `column` on."""
    settings = {"seed": 1, "steps": STEPS, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
                "model": ("flux", 0), "negative": ("negative", 0), "latent_image": ("size", 0), **sampler}  # fmt: skip
    plan.add("sample", "KSampler", "Sample", (column, 0), **settings, positive=positive)
    images = plan.add("decode", "VAEDecode", "Decode", (column + 1, 0), samples=("sample", 0), vae=("flux", 2))
    plan.nodes["decode"].collapsed = True
    plan.add("save", "SaveImage", "Picture", (column + 1, 0), images=images, filename_prefix="redux")
    plan.group("5  Picture", "sample", "decode", "save")
    return images


def apply(
    plan: Plan, key: str, title: str, place: tuple[int, int], conditioning: Link, tokens: Link, **set_: Any
) -> Link:
    return plan.add(
        key,
        "ReduxApply",
        title,
        place,
        **{"strength": 1.0, "response": "even", **set_},
        conditioning=conditioning,
        tokens=tokens,
    )


def variation(
    prompt: str = "", fit: dict[str, Any] | None = None, prefer: str = AUTOMATIC, steps: int = STEPS, **set_: Any
) -> Plan:
    """One reference, one prompt: the graph that most templates are made of."""
    plan = Plan()
    models(plan, prefer)
    conditioning = text(plan, prompt)
    tokens = reference(plan, 0, GHOST, fit)
    plan.group("2  Reference", "image", "encode")
    applied = apply(plan, "apply", "Apply Redux", (2, 0), conditioning, tokens, **set_)
    plan.group("4  Strength", "apply")
    picture(plan, applied, 3, steps=steps)
    plan.app = [("image", "image"), ("prompt", "text"), ("apply", "strength")]
    return plan


def pair(prompt: str, **size: Any) -> tuple[Plan, Link, list[Link]]:
    """The left half of a template with two references: the plan, its text, and the tokens."""
    plan = Plan(columns=NARROW, note=(5, 1))
    models(plan, small=True)
    conditioning = text(plan, prompt, (3, 1), **size)
    tokens = [reference(plan, 1, GHOST), reference(plan, 2, UMBRELLA)]
    plan.group("2  References", "image1", "image2", "encode1", "encode2")
    plan.app = [("image1", "image"), ("image2", "image"), ("prompt", "text")]
    return plan, conditioning, tokens


def two(prompt: str, first: dict[str, Any], second: dict[str, Any]) -> Plan:
    """Two references, applied one after the other."""
    plan, conditioning, tokens = pair(prompt)
    for number, (given, set_) in enumerate(zip(tokens, (first, second), strict=True), 1):
        title, place = f"Apply reference {number}", (1 + number, 0)
        conditioning = apply(plan, f"apply{number}", title, place, conditioning, given, **set_)
    plan.group("4  Settings", "apply1", "apply2", "size")
    picture(plan, conditioning, 4)
    plan.app += [("apply1", "strength"), ("apply2", "strength")]
    return plan
