"""ComfyUI's own way to Redux on the small models: CLIP_VISION and STYLE_MODEL objects of the same weights.

ComfyUI's loaders know the full sizes only, so the objects are made as the loaders make them, from other sizes.
"""

from __future__ import annotations

import json
from typing import Any

import comfy.cli_args
import comfy.clip_vision
import comfy.ldm.flux.redux
import comfy.sd
import pytest
import torch
from safetensors.torch import load_file

EPS = 1e-6  # of SigLIP's norms; ComfyUI's tower has torch's 1e-5


def clip_vision(comfy_: Any, monkeypatch: pytest.MonkeyPatch, eps: float | None = None) -> Any:
    """CLIP_VISION in fp32."""
    sizes = comfy_.sizes
    config = {
        "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": sizes.vision_hidden,
        "image_size": sizes.image,
        "intermediate_size": sizes.vision_mlp,
        "model_type": "siglip_vision_model",
        "num_attention_heads": sizes.vision_heads,
        "num_hidden_layers": sizes.vision_layers,
        "patch_size": sizes.patch,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    json_file = comfy_.base / "siglip.json"  # before 0.24 only the path of a file is taken
    json_file.write_text(json.dumps(config))
    with monkeypatch.context() as patch:
        patch.setattr(comfy.cli_args.args, "fp32_text_enc", True)
        core = comfy.clip_vision.ClipVisionModel(str(json_file))
    path = comfy_.models / "clip_vision" / comfy_.files.clip_vision
    missing, unexpected = core.load_sd(load_file(path))
    assert not missing and not unexpected
    for module in core.model.modules():
        if isinstance(module, torch.nn.LayerNorm) and eps is not None:
            module.eps = eps
    return core


def style_model(comfy_: Any, hidden: int | None = None) -> Any:
    """STYLE_MODEL in fp32; `hidden` is the width between its two layers, three times the text's if left out."""
    sizes = comfy_.sizes
    model = comfy.ldm.flux.redux.ReduxImageEncoder(sizes.vision_hidden, sizes.context)
    if hidden is not None:
        model.redux_up = torch.nn.Linear(sizes.vision_hidden, hidden)
        model.redux_down = torch.nn.Linear(hidden, sizes.context)
    path = comfy_.models / "style_models" / comfy_.files.style_models
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return comfy.sd.StyleModel(model)


def t2i_style_model() -> Any:
    """The other kind of STYLE_MODEL, of Stable Diffusion 1.5."""
    import comfy.t2i_adapter.adapter

    return comfy.sd.StyleModel(
        comfy.t2i_adapter.adapter.StyleAdapter(width=64, context_dim=32, num_head=2, n_layes=1, num_token=8)
    )
