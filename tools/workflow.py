"""Workflows in API format: read them, set inputs by node class, let them run on the small models.

Everything here returns a new workflow; the one passed in stays as it is.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import ToolError

Workflow = dict[str, dict[str, Any]]

TEXT_LOADERS = ("DualCLIPLoader", "CLIPLoader", "TripleCLIPLoader")
SEEDS = {"KSampler": "seed", "RandomNoise": "noise_seed", "KSamplerAdvanced": "noise_seed"}
STEPS = ("KSampler", "KSamplerAdvanced", "BasicScheduler")
NEGATIVE = "Negative"
SIZES = ("EmptySD3LatentImage", "EmptyLatentImage", "ModelSamplingFlux")


def read(path: Path) -> Workflow:
    """Raises ToolError when the file is no workflow in API format."""
    try:
        workflow = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ToolError(f"The workflow {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ToolError(f"{path} is no JSON: {error}.") from error
    nodes = workflow.values() if isinstance(workflow, dict) else [None]
    if not all(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in nodes):
        raise ToolError(f"{path} is no workflow in API format; use File > Export (API) in ComfyUI.")
    return dict(workflow)


def set_inputs(workflow: Workflow, class_type: str, **values: Any) -> Workflow:
    """Set inputs of every node of a class; inputs that come from a link stay linked."""
    changed = copy.deepcopy(workflow)
    for node in changed.values():
        if node["class_type"] == class_type:
            node["inputs"].update({key: value for key, value in values.items() if not _is_linked(node, key)})
    return changed


def set_titled(workflow: Workflow, title: str, **values: Any) -> Workflow:
    """The same for the nodes of a title."""
    changed = copy.deepcopy(workflow)
    for node in changed.values():
        if node["_meta"]["title"] == title:
            node["inputs"].update({key: value for key, value in values.items() if not _is_linked(node, key)})
    return changed


def set_seed(workflow: Workflow, seed: int) -> Workflow:
    for class_type, name in SEEDS.items():
        workflow = set_inputs(workflow, class_type, **{name: seed})
    return workflow


def shrink(workflow: Workflow, side: int, steps: int) -> Workflow:
    """Square pictures of `side` pixels in `steps` steps."""
    for class_type in SIZES:
        workflow = set_inputs(workflow, class_type, width=side, height=side)
    workflow = set_inputs(workflow, "ReduxSize", aspect_ratio="1:1", megapixels=side * side / 2**20)
    for node in workflow.values():
        if node["class_type"] == "ReduxSize":  # what belongs to another aspect ratio would be unknown to the node
            node["inputs"] = {key: value for key, value in node["inputs"].items() if "." not in key}
    for class_type in STEPS:
        workflow = set_inputs(workflow, class_type, steps=steps)
    return workflow


def use_models(workflow: Workflow, names: Mapping[str, str]) -> Workflow:
    """Load other files: `names` by model folder, as in `checkpoints.FileNames`. Text encoders become a word table."""
    changed = set_inputs(workflow, "UNETLoader", unet_name=names["diffusion_models"], weight_dtype="default")
    changed = set_inputs(changed, "VAELoader", vae_name=names["vae"])
    changed = set_inputs(changed, "CLIPVisionLoader", clip_name=names["clip_vision"])
    changed = set_inputs(changed, "StyleModelLoader", style_model_name=names["style_models"])
    changed = set_inputs(changed, "ReduxMiniatureText", words_name=names["text_encoders"])
    changed = set_inputs(
        changed, "ReduxLoader", vision_name=names["clip_vision"], redux_name=names["style_models"], dtype="default"
    )
    for node in changed.values():
        if node["class_type"] in TEXT_LOADERS:
            node["class_type"], node["inputs"] = "ReduxMiniatureText", {"words_name": names["text_encoders"]}
    return changed


def guide(workflow: Workflow, cfg: float) -> Workflow:
    """Real classifier-free guidance against an empty prompt, for models that are not distilled for guidance."""
    changed = copy.deepcopy(workflow)
    prompt = next((node for node in workflow.values() if node["class_type"] == "CLIPTextEncode"), None)
    if prompt is None:  # a saved conditioning: there is nothing to encode an empty prompt with
        return changed
    negative = str(max(map(int, workflow)) + 1)
    changed[negative] = {
        "class_type": "CLIPTextEncode",
        "_meta": {"title": NEGATIVE},
        "inputs": {"clip": prompt["inputs"]["clip"], "text": ""},
    }
    for node in changed.values():
        if node["class_type"] == "BasicGuider":
            positive = node["inputs"].pop("conditioning")
            node["class_type"] = "CFGGuider"
            node["inputs"] |= {"positive": positive, "negative": [negative, 0], "cfg": cfg}
    return changed


def missing_choices(workflow: Workflow, object_info: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Values that a list of the server does not offer, as (node class, input, value): model files, most of all."""
    for node in workflow.values():
        info = object_info.get(node["class_type"], {}).get("input", {})
        specs = {**info.get("required", {}), **info.get("optional", {})}
        for name, value in node["inputs"].items():
            choices = list_choices(specs.get(name))
            if choices is not None and not _is_linked(node, name) and value not in choices:
                yield node["class_type"], name, str(value)


def list_choices(spec: Any) -> list[Any] | None:
    """The options of a combo input in /object_info, in its old form or its new; None for another type."""
    if not isinstance(spec, (list, tuple)) or not spec:
        return None
    if isinstance(spec[0], list):
        return spec[0]
    if spec[0] == "COMBO":
        return list(spec[1].get("options", []))
    return None


def _is_linked(node: Mapping[str, Any], name: str) -> bool:
    value = node["inputs"].get(name)
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
