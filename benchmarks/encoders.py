"""The encoders that `encode.py` compares, each with the same weights.

A peer is a function of weights and arguments that gives, for each table ("pixel values", "pictures"), what to run by
its name; or raises `Missing`.

Shapes: B pictures, Y x X pixels, C channels, S x S pixels that the tower reads, N tokens, D width.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from redux import ReduxModel
from redux.cuda_graph import GraphedForward
from tools import checkpoints

Run = Callable[[Tensor], Tensor]
Tables = dict[str, dict[str, Run]]


class Missing(Exception):
    """A peer cannot run here; the message says why."""


@dataclass(frozen=True)
class Weights:
    """The same weights in memory and on disk, in the layout of the published files."""

    tower: dict[str, Tensor]
    projector: dict[str, Tensor]
    files: tuple[Path, Path]

    @classmethod
    def make(cls, folder: Path, sizes: checkpoints.Sizes) -> Weights:
        tower = {key: value.bfloat16() for key, value in checkpoints.siglip_weights(sizes).items()}
        projector = {key: value.bfloat16() for key, value in checkpoints.redux_weights(sizes).items()}
        files = folder / "tower.safetensors", folder / "projector.safetensors"
        for weights, path in zip((tower, projector), files, strict=True):
            save_file(weights, path, metadata=checkpoints.redux_metadata(sizes))
        return cls(tower, projector, files)


def ours(weights: Weights, args: argparse.Namespace) -> Tables:
    """This library."""
    start = time.perf_counter()
    model = ReduxModel.load(*weights.files, dtype=args.dtype, device=args.device)
    synchronize(args.device)
    size = sum(path.stat().st_size for path in weights.files) / 1e9
    print(f"redux: both files ({size:.2f} GB) loaded in {time.perf_counter() - start:.2f} s")
    rows: Tables = {"pixel values": {}, "pictures": {}}
    if args.device.type == "cuda" and torch.version.hip is None:
        rows["pixel values"]["redux, CUDA graph"] = GraphedForward(model.forward)
    rows["pixel values"]["redux, eager"] = model.forward
    rows["pictures"]["redux"] = lambda images_BYXC: model.encode(images_BYXC).tokens
    return rows


def transformers_and_diffusers(weights: Weights, args: argparse.Namespace) -> Tables:
    """SiglipVisionModel with torch's attention, then ReduxImageEncoder, in the same dtype."""
    if importlib.util.find_spec("transformers") is None:
        raise Missing("transformers is not installed")
    import transformers

    sizes = args.sizes
    config = transformers.SiglipVisionConfig(
        hidden_size=sizes.vision_hidden,
        intermediate_size=sizes.vision_mlp,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image,
        patch_size=sizes.patch,
        vision_use_head=False,
        attn_implementation="sdpa",
    )
    tower = transformers.SiglipVisionModel(config)
    prefixed = next(iter(tower.state_dict())).startswith("vision_model.")
    tower.load_state_dict({key if prefixed else key[len("vision_model.") :]: w for key, w in weights.tower.items()})
    tower.to(args.device, args.dtype).eval()
    projector, name = diffusers_projector(weights, args)

    def from_pixels(pixels_BCSS: Tensor) -> Tensor:
        return projector(tower(pixels_BCSS).last_hidden_state)

    def from_pictures(images_BYXC: Tensor) -> Tensor:
        process = transformers.SiglipImageProcessor(size={"height": sizes.image, "width": sizes.image})
        images = list(images_BYXC.movedim(-1, 1).mul(255).round().byte())
        pixels_BCSS = process(images, return_tensors="pt", device=args.device)["pixel_values"]
        return from_pixels(pixels_BCSS.to(args.device, args.dtype))

    name = f"transformers {transformers.__version__} + {name}"
    if importlib.util.find_spec("torchvision") is None:
        print(f"{name}: not in the table of pictures, since torchvision is not installed")
        return {"pixel values": {name: from_pixels}}
    return {"pixel values": {name: from_pixels}, "pictures": {name: from_pictures}}


def diffusers_projector(weights: Weights, args: argparse.Namespace) -> tuple[Run, str]:
    """diffusers' class, or where it is not installed the same three operations."""
    up, down = weights.projector["redux_up.weight"], weights.projector["redux_down.weight"]
    if importlib.util.find_spec("diffusers") is None:
        layers = nn.Sequential(nn.Linear(up.shape[1], up.shape[0]), nn.SiLU(), nn.Linear(down.shape[1], down.shape[0]))
        keys = {"redux_up": "0", "redux_down": "2"}
        layers.load_state_dict({f"{keys[k.split('.')[0]]}.{k.split('.')[1]}": w for k, w in weights.projector.items()})
        return layers.to(args.device, args.dtype), "Linear, SiLU, Linear (no diffusers here)"
    import diffusers
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    projector = ReduxImageEncoder(redux_dim=up.shape[1], txt_in_features=down.shape[0])
    projector.load_state_dict(weights.projector)
    projector.to(args.device, args.dtype).eval()
    return lambda tokens_BND: projector(tokens_BND).image_embeds, f"diffusers {diffusers.__version__}"


def comfyui(weights: Weights, args: argparse.Namespace) -> Tables:
    """What CLIPVisionEncode (crop "none") and StyleModelApply call, loaded and placed by ComfyUI itself."""
    if not args.comfyui:
        raise Missing("--comfyui names none")
    if args.small:
        raise Missing("it reads SigLIP in its real size only")
    sys.path.insert(0, args.comfyui)
    try:
        import comfy.cli_args

        comfy.cli_args.args.cpu = args.device.type == "cpu"
        import comfy.clip_vision
        import comfy.sd
        from comfyui_version import __version__ as version
    except ImportError as error:
        raise Missing(f"its import fails: {error}") from error
    clip_vision = comfy.clip_vision.load(str(weights.files[0]))
    style_model = comfy.sd.load_style_model(str(weights.files[1]))

    def from_pictures(images_BYXC: Tensor) -> Tensor:
        return style_model.get_cond(clip_vision.encode_image(images_BYXC, crop=False))

    return {"pictures": {f"ComfyUI {version}": from_pictures}}


PEERS = (ours, transformers_and_diffusers, comfyui)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
