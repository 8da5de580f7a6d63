"""FLUX and its companions through ComfyUI's own loading functions."""

from __future__ import annotations

from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch

from ...redux.tensor_files import open_files
from ...redux.words import METADATA_KEY
from .words import load_words

DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
NATIVE_SIDE, SMALL_SIDE = 1024, 128  # pixels of the square that a model was trained on
SMALL_WIDTH = 1024
GUIDANCE = 2.0  # what the miniature is used with; FLUX.1 has its guidance built in


def load_flux(model_path: str, text_paths: list[str], vae_path: str, weight_dtype: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE. The miniature's model comes with its guidance built in, as FLUX.1's does.

    Raises:
        ValueError: a file is something else.
    """
    model = comfy.sd.load_diffusion_model(model_path, model_options=dict(DTYPES[weight_dtype]))
    if native_side(model) == SMALL_SIDE:
        model = build_in_guidance(model)
    return model, _load_text(text_paths), _load_vae(vae_path)


def native_side(model: Any) -> int:
    """Pixels of the square picture that a FLUX model was trained on: 1024, or 128 of the miniature."""
    width = model.model.model_config.unet_config.get("hidden_size", SMALL_WIDTH)
    return SMALL_SIDE if width < SMALL_WIDTH else NATIVE_SIDE


def build_in_guidance(model: Any) -> Any:
    """A model that a sampler with cfg 1 samples as with GUIDANCE; another cfg counts as it stands.

    FLUX.1's guidance was distilled into it, so that its graphs run with cfg 1. The miniature's was not: here each step
    is taken with the prompt and with the sampler's negative, and a graph made for FLUX.1 runs as it is.
    """

    def guide(args: dict[str, Any]) -> torch.Tensor:
        if args.get("input_uncond") is None:  # a guider without a negative
            return args["cond"]
        scale = args["cond_scale"] if args["cond_scale"] != 1 else GUIDANCE
        return args["uncond"] + scale * (args["cond"] - args["uncond"])

    guided = model.clone()
    guided.set_model_sampler_cfg_function(guide, disable_cfg1_optimization=True)
    return guided


def _load_text(paths: list[str]) -> Any:
    if METADATA_KEY in open_files(paths[0]).metadata:
        return load_words(paths[0])
    folders = folder_paths.get_folder_paths("embeddings")
    return comfy.sd.load_clip(ckpt_paths=paths, embedding_directory=folders, clip_type=comfy.sd.CLIPType.FLUX)


def _load_vae(path: str) -> Any:
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(path))
    vae.throw_exception_if_invalid()
    return vae
