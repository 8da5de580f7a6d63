"""A ReduxModel under ComfyUI's memory management."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import Any

import comfy.model_management as memory
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.cli_args import args

from ...redux.config import ReduxConfig
from ...redux.image import View
from ...redux.model import CHUNK, ReduxModel, load_state_dict
from ...redux.projector import ReduxProjector
from ...redux.tokens import Part, ReduxTokens
from .fp8 import keep_scales, store_as_fp8

DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


KEPT_BYTES = 1 << 27  # eleven whole references in fp32


class HostedModel:
    """What travels on a REDUX_MODEL wire. ComfyUI recognises it as a model by its `patcher`."""

    def __init__(self, model: ReduxModel, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        # Looked up here, not imported: main.py replaces the class when dynamic memory starts.
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            model, load_device=load_device, offload_device=offload_device
        )
        self.kept: OrderedDict[bytes, ReduxTokens] = OrderedDict()
        if load_device.type == "cuda" and not self.patcher.is_dynamic():  # dynamic memory moves weights at any time
            model.use_graph()

    def encode(self, views: list[View]) -> ReduxTokens:
        """`ReduxModel.encode_views` on ComfyUI's device, with its progress bar and its interrupt.

        What was encoded before is not encoded again: KEPT_BYTES of tokens are kept, by the content of their views.
        """
        key = _content(views, self.model.dtype)
        tokens = self.kept.pop(key, None)
        if tokens is None:
            tokens = self._encode(views)
        device, dtype = memory.intermediate_device(), memory.intermediate_dtype()
        self.kept[key] = tokens = tokens.to(device).to(dtype=dtype)  # half as much to carry, where it grows
        while len(self.kept) > 1 and sum(kept.tokens.nbytes for kept in self.kept.values()) > KEPT_BYTES:
            self.kept.popitem(last=False)
        return tokens

    def _encode(self, views: list[View]) -> ReduxTokens:
        device = self.patcher.load_device
        bar: list[comfy.utils.ProgressBar] = []

        def progress(done: int, total: int) -> None:
            memory.throw_exception_if_processing_interrupted()
            if total > 1:
                if not bar:
                    bar.append(comfy.utils.ProgressBar(total))
                bar[0].update_absolute(done, total)

        memory.load_models_gpu([self.patcher], memory_required=self._memory_required())
        return self.model.encode_views(views, device=device, progress=progress)

    def look(self, views: list[View]) -> tuple[torch.Tensor, tuple[int, int]]:
        """The tower's own features [B, N, D] of a view, before the projector, and the grid that they lie on."""
        device = self.patcher.load_device
        memory.load_models_gpu([self.patcher], memory_required=self._memory_required())
        (view,) = views
        with torch.no_grad():
            return self.model.tower(view.pixels_BCST.to(device, self.model.dtype)), view.grid

    def _memory_required(self) -> int:
        """Bytes for the activations of a full chunk: the tower's widest layer and the projector's, twice each."""
        config, projector = self.model.config, self.model.projector.config
        widest = max(config.mlp_size + 4 * config.hidden_size, projector.hidden_features + projector.out_features)
        return CHUNK * config.num_tokens * widest * 2 * self.model.dtype.itemsize


def load_model(vision_path: str, redux_path: str, dtype_name: str = "default") -> HostedModel:
    """Load the two files for ComfyUI's text encoder device.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what a file is and what is needed.
    """
    load_device = memory.text_encoder_device()
    offload_device = memory.text_encoder_offload_device()
    dtype = DTYPES[dtype_name] or default_dtype(load_device)
    small = dtype.itemsize == 1
    configs, state_dict, encoder = load_state_dict(vision_path, redux_path, dtype=None if small else dtype)
    model = ReduxModel(*configs, operations=comfy.ops.manual_cast, device=offload_device, dtype=dtype)
    model.dtype = compute_dtype(load_device)
    model.encoder = encoder
    model.eval()
    hosted = HostedModel(model, load_device, offload_device)
    dynamic = hosted.patcher.is_dynamic()
    if small:
        place = torch.device("cpu") if dynamic else offload_device
        keep_scales(hosted.patcher, store_as_fp8(model, state_dict, dtype, model.dtype, place))
    else:
        model.load_state_dict(state_dict, assign=dynamic)
    memory.archive_model_dtypes(model)
    return hosted


def default_dtype(device: torch.device) -> torch.dtype:
    """What ComfyUI keeps text encoders in; where nobody asked for fp16 and bf16 computes, bf16, which needs no cast."""
    dtype = memory.text_encoder_dtype(device)
    computes = compute_dtype(device)
    unasked = dtype == torch.float16 and not args.fp16_text_enc and device.type != "cpu"
    return computes if unasked and computes == torch.bfloat16 else dtype


def _content(views: list[View], dtype: torch.dtype) -> bytes:
    """Names the views by what the tower reads of them."""
    digest = hashlib.sha256()
    for view in views:
        digest.update(repr((view.grid, tuple(view.pixels_BCST.shape), view.coverage_BN is None, dtype)).encode())
        for values in (view.pixels_BCST.to(dtype), view.coverage_BN):
            if values is not None:
                digest.update(values.contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.digest()


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device is fast in it, since the tower's activations have outliers; else fp16; else fp32."""
    if memory.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if memory.should_use_fp16(device, prioritize_performance=False) else torch.float32


def project_clip_vision(style_model: Any, clip_vision_output: Any) -> ReduxTokens:
    """ComfyUI's own STYLE_MODEL and CLIP_VISION_OUTPUT to tokens, with the projector on the GPU.

    ComfyUI keeps the style model on the CPU, outside its memory management; here its weights get a patcher.

    Raises:
        ValueError: the style model is not Redux, or the vision tower is not SigLIP.
    """
    state_dict = style_model.model.state_dict()
    hidden_BNV = clip_vision_output["last_hidden_state"]
    side = _check_clip_vision(state_dict, hidden_BNV)
    patcher = _load_projector(state_dict)
    memory.load_models_gpu([patcher])
    dtype = compute_dtype(patcher.load_device)
    rows = []
    for chunk_BNV in hidden_BNV.split(CHUNK):
        memory.throw_exception_if_processing_interrupted()
        rows.append(patcher.model(chunk_BNV.to(patcher.load_device, dtype)))
    tokens = ReduxTokens(torch.cat(rows), (Part(((side, side),), side * side),), about={"fit": "CLIP Vision Encode"})
    return tokens.to(memory.intermediate_device(), memory.intermediate_dtype())


def _check_clip_vision(state_dict: dict[str, torch.Tensor], hidden_BNV: torch.Tensor) -> int:
    """The side of the square of tokens."""
    if "redux_up.weight" not in state_dict:
        raise ValueError("The style model is not a Redux projector; load flux1-redux-dev.safetensors.")
    width = state_dict["redux_up.weight"].shape[1]
    side = math.isqrt(hidden_BNV.shape[1])
    if hidden_BNV.shape[-1] != width or side * side != hidden_BNV.shape[1]:
        raise ValueError(
            f"CLIP Vision gave {hidden_BNV.shape[1]} tokens of width {hidden_BNV.shape[-1]}; the projector reads a "
            f"square of tokens of width {width}, as sigclip_vision_patch14_384.safetensors gives."
        )
    return side


def _load_projector(state_dict: dict[str, torch.Tensor]) -> comfy.model_patcher.ModelPatcher:
    up, down = state_dict["redux_up.weight"], state_dict["redux_down.weight"]
    config = ReduxConfig(in_features=up.shape[1], hidden_features=up.shape[0], out_features=down.shape[0])
    load_device, offload_device = memory.text_encoder_device(), memory.text_encoder_offload_device()
    model = ReduxProjector(config, operations=comfy.ops.manual_cast, device=offload_device, dtype=up.dtype)
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=load_device, offload_device=offload_device)
    memory.archive_model_dtypes(model)
    model.load_state_dict(state_dict, assign=patcher.is_dynamic())
    return patcher
