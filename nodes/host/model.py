"""A ReduxModel under ComfyUI's memory management."""

from __future__ import annotations

from typing import Any

import comfy.model_management as memory
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch

from ...redux.model import CHUNK, ReduxModel, load_state_dict
from ...redux.tokens import ReduxTokens

DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


class HostedModel:
    """What travels on a REDUX_MODEL wire. ComfyUI recognises it as a model by its `patcher`."""

    def __init__(self, model: ReduxModel, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        # Looked up here, not imported: main.py replaces the class when dynamic memory starts.
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            model, load_device=load_device, offload_device=offload_device
        )

    def encode(self, image: torch.Tensor, **options: Any) -> ReduxTokens:
        """`ReduxModel.encode` on ComfyUI's device, with its progress bar and its interrupt."""
        device = self.patcher.load_device
        bar: list[comfy.utils.ProgressBar] = []

        def progress(done: int, total: int) -> None:
            memory.throw_exception_if_processing_interrupted()
            if total > 1:
                if not bar:
                    bar.append(comfy.utils.ProgressBar(total))
                bar[0].update_absolute(done, total)

        memory.load_models_gpu([self.patcher], memory_required=self._memory_required())
        tokens = self.model.encode(image, device=device, progress=progress, **options)
        return tokens.to(memory.intermediate_device(), memory.intermediate_dtype())

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
    dtype = DTYPES[dtype_name] or memory.text_encoder_dtype(load_device)
    configs, state_dict, encoder = load_state_dict(vision_path, redux_path, dtype=dtype)
    model = ReduxModel(*configs, operations=comfy.ops.manual_cast, device=offload_device, dtype=dtype)
    model.dtype = compute_dtype(load_device)
    model.encoder = encoder
    model.eval()
    hosted = HostedModel(model, load_device, offload_device)
    memory.archive_model_dtypes(model)
    model.load_state_dict(state_dict, assign=hosted.patcher.is_dynamic())
    return hosted


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device is fast in it, since the tower's activations have outliers; else fp16; else fp32."""
    if memory.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if memory.should_use_fp16(device, prioritize_performance=False) else torch.float32
