"""Graphs as other people share them, in API form, and how they run here: in this process, node by node.

ComfyUI's nodes and ours are the real ones. Its loaders of CLIP Vision and style models know the full sizes only, so
here they hand out objects of the miniature's weights, made as the loaders make them. The nodes of KJNodes and of
AdvancedRefluxControl are written anew from what they compute.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import core_redux
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

STEPS, CFG = 8, 2.0
VISION, STYLE = "redux-mini-siglip.safetensors", "redux-mini-projector.safetensors"
SIDE = 112  # pixels of the miniature's tower
Graph = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def frame(prompt: str, seed: int) -> Graph:
    """Everything but the reference; "apply" is still to be put in, and "result" gives the picture."""
    return {
        "1": node("UNETLoader", unet_name="redux-mini-flux.safetensors", weight_dtype="default"),
        "2": node("ReduxMiniatureText", words_name="redux-mini-words.safetensors"),
        "3": node("VAELoader", vae_name="redux-mini-vae.safetensors"),
        "4": node("CLIPTextEncode", clip=["2", 0], text=prompt),
        "5": node("CLIPTextEncode", clip=["2", 0], text=""),
        "6": node("EmptySD3LatentImage", width=128, height=128, batch_size=1),
        "7": node("KSampler", model=["1", 0], positive=["apply", 0], negative=["5", 0], latent_image=["6", 0],
                  seed=seed, steps=STEPS, cfg=CFG, sampler_name="euler", scheduler="simple", denoise=1.0),
        "result": node("VAEDecode", samples=["7", 0], vae=["3", 0]),
        "10": node("CLIPVisionLoader", clip_name=VISION),
        "11": node("StyleModelLoader", style_model_name=STYLE),
        "20": node("LoadImage", image="first.png"),
        "21": node("LoadImage", image="second.png"),
    }  # fmt: skip


def with_apply(kind: str, *settings: dict[str, Any], crop: str = "center", prompt: str = "red apple, large, center",
               image: str = "first.png", seed: int = 1) -> Graph:  # fmt: skip
    """One node of a kind, or a chain of two on two pictures, with these settings."""
    graph = frame(prompt, seed)
    graph["20"]["inputs"]["image"] = image
    conditioning = ["4", 0]
    for index, values in enumerate(settings):
        picture, encode, apply = [str(20 + index), 0], str(30 + index), "apply" if index == len(settings) - 1 else "40"
        inputs = {"conditioning": conditioning, "style_model": ["11", 0], **values}
        if kind == "ReduxAdvanced":
            inputs |= {"clip_vision": ["10", 0], "image": picture}
        else:
            graph[encode] = node("CLIPVisionEncode", clip_vision=["10", 0], image=picture, crop=crop)
            inputs["clip_vision_output"] = [encode, 0]
        graph[apply] = node(kind, **inputs)
        conditioning = [apply, 0]
    return graph


class Runner:
    """Runs graphs and keeps what nodes gave, by what they were and what they were fed with."""

    def __init__(self, mini: Any, pictures: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
        config = mini.model.model.tower.config
        sizes = SimpleNamespace(
            vision_hidden=config.hidden_size, image=config.image_size, vision_mlp=config.mlp_size,
            vision_heads=config.num_heads, vision_layers=config.num_layers, patch=config.patch_size, context=384,
        )  # fmt: skip
        files = SimpleNamespace(clip_vision=VISION, style_models=STYLE)
        here = SimpleNamespace(sizes=sizes, files=files, base=mini.comfy.base, models=mini.comfy.models)
        self.mini, self.given = mini, {}
        self.local = {
            "CLIPVisionLoader": lambda clip_name: (core_redux.clip_vision(here, monkeypatch),),
            "StyleModelLoader": lambda style_model_name: (core_redux.style_model(here, 1024),),
            "LoadImage": lambda image: (pictures[image],),
            **OLD,
        }

    def __call__(self, graph: Graph, key: str = "result", output: int = 0) -> Any:
        return self._run(graph, key)[1][output]

    def _run(self, graph: Graph, key: str) -> tuple[str, Any]:
        """What the node and all before it are, as text, and its outputs."""
        struct = graph[key]
        inputs, text = {}, [struct["class_type"]]
        for name, value in struct["inputs"].items():
            if isinstance(value, list):
                said, outputs = self._run(graph, value[0])
                inputs[name], value = outputs[value[1]], f"{said}[{value[1]}]"
            else:
                inputs[name] = value
            text.append(f"{name}={value}")
        about = "(".join([text[0], ", ".join(sorted(text[1:]))]) + ")"
        if about not in self.given:
            self.given[about] = self._call(struct["class_type"], inputs)
        return about, self.given[about]

    def _call(self, kind: str, inputs: dict[str, Any]) -> Any:
        if kind in self.local:
            return self.local[kind](**inputs)
        if kind in self.mini.redux:
            known = {input.id for input in self.mini.redux[kind].GET_SCHEMA().inputs}  # ComfyUI passes on no others
            nested = {name: value for name, value in inputs.items() if name in known}
            for name, value in inputs.items():
                parent, _, child = name.partition(".")
                if child:
                    nested[parent] = {**_as_dict(parent, nested[parent]), child: value}
            if kind == "ReduxEncode":
                nested["fit"] = _as_dict("fit", nested["fit"])
            return self.mini.redux[kind].execute(**nested).args
        cls = self.mini.comfy.nodes.NODE_CLASS_MAPPINGS.get(kind)
        if cls is None or kind == "EmptySD3LatentImage":
            return (self.mini.comfy.empty_latent(inputs["height"], inputs["width"], inputs["batch_size"]),)
        return getattr(cls(), cls.FUNCTION)(**inputs)


def _as_dict(name: str, value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {name: value}


def append(conditioning: list, tokens: Tensor) -> tuple[list]:
    return ([[torch.cat([text, tokens.expand(len(text), -1, -1)], dim=1), dict(keys)] for text, keys in conditioning],)


def project(style_model: Any, clip_vision_output: Any) -> Tensor:
    """[1, B * N, D]"""
    return style_model.get_cond(clip_vision_output).flatten(0, 1)[None]


def resize_tokens(tokens_BND: Tensor, side: int, mode: str) -> Tensor:
    full = round(tokens_BND.shape[1] ** 0.5)
    if side == full:
        return tokens_BND
    grid = interpolate(tokens_BND.movedim(1, 2).unflatten(2, (full, full)), size=(side, side), mode=mode)
    return grid.flatten(2).movedim(1, 2)


def kjnodes(conditioning: list, style_model: Any, clip_vision_output: Any, strength: float) -> tuple[list]:
    return append(conditioning, strength * project(style_model, clip_vision_output))


def simple(conditioning: list, style_model: Any, clip_vision_output: Any, image_strength: str) -> tuple[list]:
    tokens = project(style_model, clip_vision_output)
    factor = ["highest", "high", "medium", "low", "lowest"].index(image_strength) + 1
    side = round(tokens.shape[1] ** 0.5) // factor
    return append(conditioning, resize_tokens(tokens, side, "area" if factor == 3 else "bicubic"))


def advanced(conditioning: list, style_model: Any, clip_vision: Any, image: Tensor, downsampling_factor: float,
             downsampling_function: str, mode: str, weight: float, autocrop_margin: float = 0.1,
             mask: Tensor | None = None) -> tuple[list]:  # fmt: skip
    """ReduxAdvanced, for pictures without a mask."""
    height, width = image.shape[1:3]
    short, long = min(height, width), max(height, width)
    scale = SIDE / (short if mode == "center crop (square)" else long)
    size = round(height * scale), round(width * scale)
    fitted = interpolate(image.movedim(-1, 1), size=size, mode="bicubic", antialias=True)
    if mode == "center crop (square)":
        top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        square, keep = fitted[..., top : top + SIDE, left : left + SIDE], None
    else:
        top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
        square = torch.zeros(1, 3, SIDE, SIDE)
        square[..., top : top + size[0], left : left + size[1]] = fitted
        keep = torch.zeros(1, 1, SIDE, SIDE)
        keep[..., top : top + size[0], left : left + size[1]] = 1
    tokens = project(style_model, clip_vision.encode_image(square.movedim(1, -1)))
    full = round(tokens.shape[1] ** 0.5)
    side = round(full / downsampling_factor) if downsampling_factor > 1 else full
    if keep is not None:
        keep_BN1 = torch.nn.functional.max_pool2d(keep, SIDE // full).flatten(2).movedim(1, 2)
        tokens = tokens * keep_BN1 if side < full else tokens
        kept = resize_tokens(keep_BN1, side, "area")[0, :, 0] > 0
        return append(conditioning, weight**2 * resize_tokens(tokens, side, downsampling_function)[:, kept])
    return append(conditioning, weight**2 * resize_tokens(tokens, side, downsampling_function))


OLD = {"StyleModelApplyAdvanced": kjnodes, "StyleModelApplySimple": simple, "ReduxAdvanced": advanced}
