"""Say what a checkpoint is from its tensor names and shapes, so that a wrong file is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]

# First match wins, so the more telling name stands first.
SIGNATURES: tuple[tuple[str, str], ...] = (
    (r"lora_(up|down|A|B)\b", "a LoRA"),
    (r"(^|\.)redux_(up|down)\.weight$", "a Redux projector"),
    (r"(^|\.)style_embedding$", "a T2I style adapter"),
    (r"(^|\.)double_blocks\.0\.", "a FLUX diffusion model"),
    (r"(^|\.)joint_blocks\.0\.", "a Stable Diffusion 3 model"),
    (r"^(transformer\.)?single_transformer_blocks\.0\.", "a FLUX diffusion model in diffusers layout"),
    (r"(^|\.)(model\.diffusion_model\.)?input_blocks\.0\.", "a Stable Diffusion U-Net"),
    (r"(^|\.)(layer_scale1\.lambda1|layer_scale2\.lambda1)$", "DINOv2"),
    (r"(^|\.)visual\.transformer\.resblocks\.0\.", "an OpenCLIP checkpoint"),
    (r"(^|\.)visual\.trunk\.", "an OpenCLIP checkpoint with a timm tower"),
    (r"encoder\.block\.0\.layer\.0\.SelfAttention", "a T5 text encoder"),
    (r"^taesd_(encoder|decoder)\.", "a TAESD autoencoder"),
    (r"^(first_stage_model\.)?(encoder|decoder)\.conv_in\.weight$", "a VAE"),
    (r"(^|\.)(text_model\.|embeddings\.token_embedding\.)", "a CLIP text encoder"),
)

VISION_NAMES: dict[tuple[int, int, int, bool], str] = {
    # hidden size, layers, rows of the position table, class token
    (768, 12, 50, True): "CLIP ViT-B/32",
    (768, 12, 197, True): "CLIP ViT-B/16",
    (1024, 24, 257, True): "CLIP ViT-L/14",
    (1024, 24, 577, True): "CLIP ViT-L/14-336",
    (1280, 32, 257, True): "CLIP ViT-H",
    (1664, 48, 257, True): "CLIP ViT-bigG",
    (768, 12, 196, False): "SigLIP base patch16-224",
    (768, 12, 256, False): "SigLIP base patch16-256",
    (768, 12, 576, False): "SigLIP base patch16-384",
    (768, 12, 1024, False): "SigLIP base patch16-512",
    (1024, 24, 256, False): "SigLIP large patch16-256",
    (1024, 24, 576, False): "SigLIP large patch16-384",
    (1152, 27, 256, False): "SigLIP so400m patch14-224",
    (1152, 27, 729, False): "SigLIP so400m patch14-384",
    (1152, 27, 1024, False): "SigLIP 2 so400m patch16-512",
    (1152, 27, 576, False): "SigLIP 2 so400m patch16-384",
}


def identify(shapes: Shapes) -> str:
    """A short noun phrase for an error message, e.g. "CLIP ViT-H" or "a T5 text encoder"."""
    vision = _identify_vision(shapes)
    if vision:
        return vision
    for pattern, name in SIGNATURES:
        if any(re.search(pattern, key) for key in shapes):
            return name
    return f"an unknown checkpoint ({len(shapes)} tensors, e.g. '{next(iter(shapes), 'none')}')"


def _identify_vision(shapes: Shapes) -> str | None:
    prefix = vision_prefix(shapes)
    if prefix is None:
        return None
    patch = shapes[f"{prefix}embeddings.patch_embedding.weight"]
    position = shapes.get(f"{prefix}embeddings.position_embedding.weight", (0, 0))
    if len(patch) != 4:
        return "SigLIP 2 NaFlex" if len(patch) == 2 else "a damaged vision tower"
    layers = count_layers(shapes, prefix)
    class_token = f"{prefix}embeddings.class_embedding" in shapes
    size = (patch[0], layers, position[0], class_token)
    described = f"a vision tower of width {patch[0]} with {layers} layers and {position[0]} positions"
    return VISION_NAMES.get(size, described)


def vision_prefix(shapes: Shapes) -> str | None:
    """What stands before `embeddings.patch_embedding.weight`, e.g. "vision_model." or ""; None if it is absent."""
    return _prefix(shapes, "embeddings.patch_embedding.weight")


def projector_prefix(shapes: Shapes) -> str | None:
    """What stands before `redux_up.weight`, e.g. "image_embedder." or ""; None if it is absent."""
    return _prefix(shapes, "redux_up.weight")


def _prefix(shapes: Shapes, end: str) -> str | None:
    prefixes = [key.removesuffix(end) for key in shapes if key == end or key.endswith(f".{end}")]
    return min(prefixes, key=len) if prefixes else None


def count_layers(shapes: Shapes, prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"encoder\.layers\.(\d+)\.")
    return 1 + max((int(match[1]) for key in shapes if (match := pattern.match(key))), default=-1)
