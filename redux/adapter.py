"""Our layout of the weights and that of the published files: one map, two directions.

A map names, for each of our parameters, the stored tensors that make it up; several are concatenated along the first
dimension: queries, keys and values are one matrix here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from .config import SiglipConfig

KeyMap = Mapping[str, tuple[str, ...]]

BLOCK_LAYERS = {
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.out_proj",),
    "mlp.up": ("mlp.fc1",),
    "mlp.down": ("mlp.fc2",),
}


def tower_map(config: SiglipConfig, prefix: str = "vision_model.") -> KeyMap:
    """Of `SiglipVisionTower` to transformers' SiglipVisionModel; `prefix` stands before every stored name."""
    layers: dict[str, tuple[str, ...]] = {"patch": ("embeddings.patch_embedding",), "norm": ("post_layernorm",)}
    for index in range(config.num_layers):
        for ours, theirs in BLOCK_LAYERS.items():
            layers[f"blocks.{index}.{ours}"] = tuple(f"encoder.layers.{index}.{part}" for part in theirs)
    keys: dict[str, tuple[str, ...]] = {"position.weight": (f"{prefix}embeddings.position_embedding.weight",)}
    for ours, stored in layers.items():
        for kind in ("weight", "bias"):
            keys[f"{ours}.{kind}"] = tuple(f"{prefix}{part}.{kind}" for part in stored)
    return keys


def projector_map(keys: Iterable[str], prefix: str = "") -> KeyMap:
    """Of `ReduxProjector`, whose names are those of the published file; diffusers puts a prefix before them."""
    return {key: (prefix + key,) for key in keys}


def to_hf(keys: KeyMap, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the stored names; parts of a joined matrix are views of it.

    Raises:
        KeyError: a parameter is missing.
    """
    out: dict[str, Tensor] = {}
    for ours, stored in keys.items():
        out |= zip(stored, weights[ours].chunk(len(stored)), strict=True)
    return out


def from_hf(
    keys: KeyMap,
    read: Callable[[str], Tensor],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Our weights from the stored ones, which `read` gives by their names, one at a time.

    Args:
        dtype, device: of the result; None keeps those of what is read.
    """
    return {ours: _join([read(name) for name in stored], dtype, device) for ours, stored in keys.items()}


def _join(parts: list[Tensor], dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    """Along the first dimension, converted on the way, so that no part is in memory twice."""
    if len(parts) == 1:
        return parts[0].to(device, dtype)
    rows = [len(part) for part in parts]
    first = parts[0]
    joined = torch.empty((sum(rows), *first.shape[1:]), dtype=dtype or first.dtype, device=device or first.device)
    for target, part in zip(joined.split(rows), parts, strict=True):
        target.copy_(part)
    return joined
