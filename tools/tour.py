"""What `make demo` shows with the miniature: every control, a row each.

A row is one or several runs of the workflows in `workflows/api`, with the miniature's file names in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import workflow
from .host import ROOT
from .workflow import Workflow

API = ROOT / "workflows" / "api"
REFERENCES = ROOT / "miniature" / "references"
FIRST, SECOND = REFERENCES / "first.png", REFERENCES / "second.png"
SIDE, STEPS, CFG = 128, 10, 2.0
NAMES = {
    "diffusion_models": "redux-mini-flux.safetensors",
    "vae": "redux-mini-vae.safetensors",
    "clip_vision": "redux-mini-siglip.safetensors",
    "style_models": "redux-mini-projector.safetensors",
    "text_encoders": "redux-mini-words.safetensors",
}
OBJECT = "red apple, large, center"
# Around 0.5, below which the prompt begins to win (miniature/README.md).
BAND = (0.0, 0.4, 0.5, 0.6, 1.0)
PROMPTS = (
    "noto style, red background",
    "twemoji style, orange background",
    "flat style, pink background",
    "striped green background",
)


@dataclass(frozen=True)
class Shot:
    """One prompt to queue, the name of its files, and a caption for each picture it saves."""

    name: str
    graph: Workflow
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Chapter:
    """A row: reference pictures with captions, then what the shots make."""

    title: str
    references: tuple[tuple[Path, str], ...]
    shots: tuple[Shot, ...]


def chapters(first: Path, names: tuple[str, str]) -> Iterator[Chapter]:
    """The tour.

    Args:
        first: the picture of the first reference; the second is the miniature's own.
        names: of both on the server.
    """
    reference = ((first, "the reference"),)
    plain = graph_of("image_variation", names)
    four = workflow.set_inputs(plain, "EmptySD3LatentImage", batch_size=4)
    seeds = tuple(f"variation {number}" for number in range(1, 5))
    yield Chapter("Redux alone", reference, (Shot("variation", four, seeds),))
    weighed = [(s, workflow.set_inputs(say(plain, OBJECT), "ReduxApply", strength=s, response="even")) for s in BAND]
    shots = tuple(Shot(f"strength-{s:.2f}", graph, (_name_strength(s),)) for s, graph in weighed)
    yield Chapter(f"Strength,\nwith the prompt\n\u201c{OBJECT}\u201d", reference, shots)
    restyled = tuple(Shot(f"prompt-{n}", say(plain, text), (text,)) for n, text in enumerate(PROMPTS, 1))
    yield Chapter("Style and background\nfrom the prompt", reference, restyled)
    yield from _regions(first, names)


def _regions(first: Path, names: tuple[str, str]) -> Iterator[Chapter]:
    """One reference in one half and the text in the other; then two, each in its half, and where each acted."""
    text = f"{OBJECT.split(',')[0]}, side by side"
    halves = [
        Shot(f"region-{side}", _half(names, side, text), (f"reference {side}, text elsewhere",))
        for side in ("left", "right")
    ]
    title = f"A region for it,\nand the prompt\n\u201c{text}\u201d"
    yield Chapter(title, ((first, "the reference"),), tuple(halves))
    both = workflow.set_inputs(graph_of("two_references_in_two_regions", names), "ReduxApply", strength=1.0)
    shot = Shot("regions", say(both, "side by side"), ("both in one picture", "where each one acted"))
    yield Chapter("Two references,\na region for each", ((first, "left half"), (SECOND, "right half")), (shot,))


def _half(names: tuple[str, str], side: str, text: str) -> Workflow:
    """The first picture in one half only: the reference of the other half has strength 0, which is none at all."""
    order = names if side == "left" else names[::-1]
    graph = workflow.set_inputs(graph_of("two_references_in_two_regions", order), "ReduxApply", strength=0.0)
    graph = workflow.set_titled(graph, f"{side.capitalize()} reference", strength=1.0)
    maps = [key for key, node in graph.items() if node["class_type"] == "ReduxInfluence"]
    return say({key: node for key, node in graph.items() if not _comes_from(node, maps) and key not in maps}, text)


def _comes_from(node: dict[str, Any], sources: list[str]) -> bool:
    return any(isinstance(value, list) and value[0] in sources for value in node["inputs"].values())


def _name_strength(strength: float) -> str:
    return f"strength {strength:g}" + (" (text alone)" if strength == 0 else "")


def graph_of(name: str, images: tuple[str, str]) -> Workflow:
    """An API file on the miniature, at its size, with real classifier-free guidance and an empty prompt."""
    graph = workflow.shrink(workflow.use_models(workflow.read(API / f"{name}.json"), NAMES), SIDE, STEPS)
    graph = say(workflow.guide(graph, CFG), "")
    loaders = [node for node in graph.values() if node["class_type"] == "LoadImage"]
    for node, image in zip(loaders, images, strict=False):
        node["inputs"]["image"] = image
    return graph


def say(graph: Workflow, prompt: str) -> Workflow:
    """Set the prompt beside the reference; the negative stays empty."""
    return workflow.set_titled(workflow.set_inputs(graph, "CLIPTextEncode", text=prompt), workflow.NEGATIVE, text="")
