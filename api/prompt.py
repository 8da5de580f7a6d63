"""An order as a workflow in API format: the template workflows/api/hosted.json with its values set."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from .jobs import Order
from .settings import Models

TEMPLATE = Path(__file__).parents[1] / "workflows" / "api" / "hosted.json"
SAVE, SAFETY = "save", "safety"

Prompt = dict[str, dict[str, Any]]


def build_prompt(
    order: Order, models: Models, prefix: str, safety_threshold: float, embed_workflow: bool = False
) -> Prompt:
    """The workflow that makes an order.

    There is one template for every model. A real FLUX.1 reads its text with two encoders, the miniature with a table of
    words: that node is exchanged. With `models.guidance` "cfg" the guider is exchanged too, against one that samples
    with and without the conditioning.

    Args:
        prefix: of the saved files, in ComfyUI's output folder; another one for each job, or ComfyUI would give a
            repeated order the files of the first.
        embed_workflow: whether the saved files carry the workflow, with the prompt and the reference's name.
    """
    graph = copy.deepcopy(_template())
    _set_models(graph, models)
    values: dict[str, dict[str, Any]] = {
        "reference": {"image": order.reference},
        "prompt": {"text": order.prompt},
        "guidance": {"guidance": order.guidance},
        "apply": {"strength": order.strength},
        "noise": {"noise_seed": order.seed},
        "steps": {"steps": order.steps},
        "size": {"width": order.width, "height": order.height, "batch_size": order.count},
        SAVE: {
            "filename_prefix": prefix,
            "format": order.format,
            "quality": max(1, order.quality),
            "embed_workflow": embed_workflow,
        },
    }
    for node, inputs in values.items():
        graph[node]["inputs"].update(inputs)
    if models.guidance == "cfg":
        _set_cfg(graph, order.guidance)
    if order.safety:
        inputs = {"images": ["decode", 0], "threshold": safety_threshold, "action": order.safety}
        graph[SAFETY] = {"class_type": "ReduxSafetyCheck", "inputs": inputs}
        graph[SAVE]["inputs"]["images"] = [SAFETY, 0]
    return graph


def _set_models(graph: Prompt, models: Models) -> None:
    graph["model"]["inputs"].update(unet_name=models.diffusion_model, weight_dtype=models.weight_dtype)
    graph["vae"]["inputs"].update(vae_name=models.vae)
    graph["redux"]["inputs"].update(vision_name=models.clip_vision, redux_name=models.style_model)
    if models.clip_l and models.t5xxl:
        graph["text"]["inputs"].update(clip_name1=models.clip_l, clip_name2=models.t5xxl)
    else:
        graph["text"] = {"class_type": "ReduxMiniatureText", "inputs": {"words_name": models.words}}


def _set_cfg(graph: Prompt, guidance: float) -> None:
    graph["negative"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["text", 0], "text": ""}}
    graph["apply"]["inputs"]["conditioning"] = ["prompt", 0]
    del graph["guidance"]
    inputs = {"model": ["model", 0], "positive": ["apply", 0], "negative": ["negative", 0], "cfg": guidance}
    graph["guider"] = {"class_type": "CFGGuider", "inputs": inputs}


@lru_cache(maxsize=1)
def _template() -> Prompt:
    return dict(json.loads(TEMPLATE.read_text("utf-8")))
