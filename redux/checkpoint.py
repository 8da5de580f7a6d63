"""Checkpoints of other projects to our layout: recognise by shapes, convert, check every key and every shape.

Shapes are checked here because a host with dynamic memory accepts a weight of the wrong shape without a word.
What the map of adapter.py does not use must be `DROPPED` on purpose, or the file is refused: a tensor nobody reads
means a model that nobody here knows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import KeyMap, from_hf, projector_map, tower_map
from .config import KNOWN_PROJECTORS, KNOWN_TOWERS, ReduxConfig, SiglipConfig, read_metadata
from .identify import VISION_NAMES, count_layers, identify, projector_prefix, vision_prefix
from .projector import ReduxProjector
from .siglip import SiglipVisionTower
from .tensor_files import TensorFiles, TensorReader, open_files

NEED_TOWER = (
    "Redux needs the vision tower SigLIP so400m, e.g. sigclip_vision_patch14_384.safetensors in models/clip_vision"
)
NEED_PROJECTOR = "Redux needs the projector, e.g. flux1-redux-dev.safetensors in models/style_models"

# SigLIP's pooling head, its text half, the index buffer that old transformers versions stored, and the scales of fp8
# storage, which are applied when their weight is read.
DROPPED = re.compile(
    r"(^|\.)(head\.|text_model\.|logit_scale$|logit_bias$|embeddings\.position_ids$|scaled_fp8$)"
    r"|\.(scale_weight|weight_scale|scale_input|input_scale|comfy_quant)$"
)

FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


def load_tower(
    path: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[SiglipConfig, dict[str, Tensor]]:
    """Read a SigLIP vision tower.

    Args:
        path: a repackaged tower, a full SigLIP checkpoint (its text half is ignored), a Hugging Face folder, or a
            file of this project with `redux.config` metadata.
        dtype: of the result; None keeps the stored one.
        device: of the result.

    Returns:
        The configuration and a state dict for `SiglipVisionTower`.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
    """
    files = open_files(path, subfolders=("image_encoder", "vision_model"))
    config = tower_config(files)
    model = SiglipVisionTower(config, device="meta")
    return config, _convert(files, tower_map(config, vision_prefix(files.shapes) or ""), model, dtype, device)


def load_projector(
    path: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> tuple[ReduxConfig, dict[str, Tensor]]:
    """Read a Redux projector: the four-key file, or the diffusers folder (also that of the whole prior pipeline).

    Arguments and errors are those of `load_tower`; the state dict is for `ReduxProjector`.
    """
    files = open_files(path, subfolders=("image_embedder",))
    config = projector_config(files)
    model = ReduxProjector(config, device="meta")
    keys = projector_map(model.state_dict(), projector_prefix(files.shapes) or "")
    return config, _convert(files, keys, model, dtype, device)


def tower_config(files: TensorFiles) -> SiglipConfig:
    """The configuration from the table of known towers, the file's metadata or the folder's config.json.

    A tower that is known to be another model than those Redux was trained for is refused although its config.json
    describes it; only metadata of this project admits it.

    Raises:
        ValueError: not a SigLIP tower, or one whose head count nobody says.
    """
    shapes, name = files.shapes, files.path.name
    prefix = vision_prefix(shapes)
    patch = shapes.get(f"{prefix}embeddings.patch_embedding.weight", ())
    positions = shapes.get(f"{prefix}embeddings.position_embedding.weight", ())
    if prefix is None or len(patch) != 4 or len(positions) != 2 or f"{prefix}embeddings.class_embedding" in shapes:
        raise ValueError(f"{name} is {identify(shapes)}; {NEED_TOWER}.")
    measured = (patch[-1], patch[0], count_layers(shapes, prefix), positions[0])
    told = read_metadata(files.metadata, "vision", SiglipConfig, name)
    if told is None and identify(shapes) not in VISION_NAMES.values():
        told = _config_from_json(files.config, name)
    for config in (*KNOWN_TOWERS.values(), told):
        if config and measured == (config.patch_size, config.hidden_size, config.num_layers, config.num_tokens):
            return config
    raise ValueError(f"{name} is {identify(shapes)}; {NEED_TOWER}.")


def projector_config(files: TensorFiles) -> ReduxConfig:
    """The configuration, read from the shapes of the two matrices. A diffusers config.json may confirm it.

    Raises:
        ValueError: not a Redux projector, or one of unknown size without metadata.
    """
    shapes, name, prefix = files.shapes, files.path.name, projector_prefix(files.shapes) or ""
    up, down = shapes.get(f"{prefix}redux_up.weight", ()), shapes.get(f"{prefix}redux_down.weight", ())
    if len(up) != 2 or len(down) != 2:
        raise ValueError(f"{name} is {identify(shapes)}; {NEED_PROJECTOR}.")
    config = ReduxConfig(in_features=up[1], hidden_features=up[0], out_features=down[0])
    told = read_metadata(files.metadata, "projector", ReduxConfig, name)
    described = files.config.get("redux_dim"), files.config.get("txt_in_features")
    if described == (config.in_features, config.out_features):
        told = config
    if config not in (*KNOWN_PROJECTORS.values(), told):
        size = f"{up[1]} -> {up[0]} -> {down[0]}"
        raise ValueError(f"{name} is a projector of unknown size {size}; {NEED_PROJECTOR} (1152 -> 12288 -> 4096).")
    return config


def check_pair(vision: SiglipConfig, projector: ReduxConfig) -> None:
    """Raises ValueError unless the projector reads tokens of the tower's width."""
    if vision.hidden_size != projector.in_features:
        raise ValueError(
            f"The vision tower gives tokens of width {vision.hidden_size} and the projector reads width "
            f"{projector.in_features}; choose two files that were trained together."
        )


def _config_from_json(config: dict[str, Any], where: str) -> SiglipConfig | None:
    """Configuration from a Hugging Face config.json; transformers leaves out what equals its defaults."""
    config = config.get("vision_config", config)
    if not isinstance(config, dict) or not str(config.get("model_type", "")).startswith("siglip"):
        return None
    try:
        return SiglipConfig(
            image_size=config.get("image_size", 224),
            patch_size=config.get("patch_size", 16),
            hidden_size=config.get("hidden_size", 768),
            num_layers=config.get("num_hidden_layers", 12),
            num_heads=config.get("num_attention_heads", 12),
            mlp_size=config.get("intermediate_size", 3072),
            layer_norm_eps=config.get("layer_norm_eps", 1e-6),
        )
    except ValueError as error:
        raise ValueError(f"The config.json of {where} cannot be used: {error}") from error


def _convert(
    files: TensorFiles,
    keys: KeyMap,
    model: nn.Module,
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> dict[str, Tensor]:
    _check(files, keys, {key: tuple(value.shape) for key, value in model.state_dict().items()})
    with files.reader() as reader:
        return from_hf(keys, lambda name: _read(files, reader, name, dtype), dtype, device)


def _read(files: TensorFiles, reader: TensorReader, name: str, dtype: torch.dtype | None) -> Tensor:
    """One tensor as it is stored; an fp8 weight with a scale is multiplied out, since our layers know no scales."""
    layer = name.removesuffix(".weight")
    scales = [key for key in (f"{layer}.scale_weight", f"{layer}.weight_scale") if key in files.shapes]
    weight = reader.read(name)
    if not scales or layer == name:
        return weight
    scale = reader.read(scales[0]).float()
    if scale.numel() not in (1, len(weight)):
        raise ValueError(
            f"The scale '{scales[0]}' of {files.path.name} has shape {tuple(scale.shape)}; one number, or one for each "
            "row of the weight, is needed."
        )
    return (weight.float() * scale.reshape(-1, *(1 for _ in weight.shape[1:]))).to(dtype or torch.bfloat16)


def _check(files: TensorFiles, keys: KeyMap, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse missing tensors, wrong shapes and unknown leftovers, naming the first of each."""
    name, shapes = files.path.name, files.shapes
    for ours, sources in keys.items():
        rows, *rest = expected[ours]
        for source in sources:
            shape = (rows // len(sources), *rest)
            if source not in shapes:
                raise ValueError(f"{name} has no tensor '{source}'; it is {identify(shapes)}, but not a complete one.")
            if shapes[source] != shape:
                raise ValueError(f"The tensor '{source}' of {name} has shape {shapes[source]}; {shape} is needed.")
            if files.dtypes[source] not in FLOATS:
                found = files.dtypes[source]
                raise ValueError(f"The tensor '{source}' of {name} is stored as {found}; fp32 to fp8 is needed.")
    used = {source for sources in keys.values() for source in sources}
    unknown = [key for key in shapes if key not in used and not DROPPED.search(key)]
    if unknown:
        raise ValueError(
            f"{name} holds {len(unknown)} tensors that are not part of {identify(shapes)}, e.g. '{unknown[0]}'."
        )
