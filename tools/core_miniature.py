"""A custom node for `tools.readme_pictures` only: the miniature as ComfyUI's own CLIP_VISION and STYLE_MODEL.

ComfyUI's loaders know the full sizes alone, so the objects are made as those loaders make them, from other sizes.
ComfyUI's *CLIP Vision Encode* and *Apply Style Model* then run as they are. It stands alone: a server copies it into
its custom_nodes.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.ldm.flux.redux
import comfy.sd
import folder_paths
from safetensors.torch import load_file

VISION, PROJECTOR = "redux-mini-siglip.safetensors", "redux-mini-projector.safetensors"


class CoreMiniature:
    RETURN_TYPES = ("CLIP_VISION", "STYLE_MODEL")
    FUNCTION = "load"
    CATEGORY = "testing"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def load(self) -> tuple[Any, Any]:
        weights = load_file(folder_paths.get_full_path_or_raise("clip_vision", VISION))
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "siglip.json"
            config.write_text(json.dumps(describe(weights)))
            vision = comfy.clip_vision.ClipVisionModel(str(config))
        missing, unexpected = vision.load_sd(weights)
        assert not missing and not unexpected
        weights = load_file(folder_paths.get_full_path_or_raise("style_models", PROJECTOR))
        up, down = weights["redux_up.weight"], weights["redux_down.weight"]
        projector = comfy.ldm.flux.redux.ReduxImageEncoder(up.shape[1], down.shape[0])
        projector.redux_up, projector.redux_down = (
            type(projector.redux_up)(weight.shape[1], weight.shape[0]) for weight in (up, down)
        )
        projector.load_state_dict({key: value.float() for key, value in weights.items()})
        return vision, comfy.sd.StyleModel(projector)


def describe(weights: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the tower, from its shapes; a head is 64 wide."""
    patch = weights["vision_model.embeddings.patch_embedding.weight"]
    positions = weights["vision_model.embeddings.position_embedding.weight"]
    mlp = weights["vision_model.encoder.layers.0.mlp.fc1.weight"]
    return {
        "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": patch.shape[0],
        "image_size": patch.shape[-1] * round(positions.shape[0] ** 0.5),
        "intermediate_size": mlp.shape[0],
        "model_type": "siglip_vision_model",
        "num_attention_heads": patch.shape[0] // 64,
        "num_hidden_layers": len({key.split(".")[3] for key in weights if ".layers." in key}),
        "patch_size": patch.shape[-1],
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }


NODE_CLASS_MAPPINGS = {"CoreMiniature": CoreMiniature}
