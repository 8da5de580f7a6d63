"""Small random-weight checkpoints in the file formats of the real ones, for tests.

    write_checkpoints(models)   ->  clip_vision/, style_models/, diffusion_models/, vae/ and text_encoders/

ComfyUI reads them with its ordinary loaders, as it reads the 12-billion-parameter files. The same seed gives the
same bytes. The builders return state dicts, for tests that need no file.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]

WORDS = ("", "a", "cat", "dog", "red", "green", "blue", "photo", "drawing", "of", "in", "front", "night", "day")


@dataclass(frozen=True)
class Sizes:
    """Sizes of the small models. FLUX heads are 128 wide whatever its width, so `hidden` is a multiple of 128."""

    image: int = 112
    patch: int = 14
    vision_hidden: int = 128
    vision_mlp: int = 256
    vision_layers: int = 2
    vision_heads: int = 2
    context: int = 128
    hidden: int = 256
    double_blocks: int = 1
    single_blocks: int = 2
    guidance: bool = False
    vector: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens that one picture gives: 64 unless `image` or `patch` is changed."""
        return (self.image // self.patch) ** 2


@dataclass(frozen=True)
class FileNames:
    """File names as ComfyUI lists them, one per model folder."""

    clip_vision: str = "random-siglip.safetensors"
    style_models: str = "random-redux.safetensors"
    diffusion_models: str = "random-flux.safetensors"
    vae: str = "random-vae.safetensors"
    text_encoders: str = "random-words.safetensors"


SIZES = Sizes()
NAMES = FileNames()


class _Maker:
    """Draws weights from one seeded stream: variance 1 / fan-in, so that a forward pass keeps its scale."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: Weights = {}

    def tensor(self, key: str, *shape: int, scale: float = 1.0) -> None:
        self.weights[key] = torch.randn(shape, generator=self.generator) * scale

    def linear(self, key: str, out_features: int, in_features: int, *kernel: int, bias: bool = True) -> None:
        fan_in = in_features
        for side in kernel:
            fan_in *= side
        self.tensor(f"{key}.weight", out_features, in_features, *kernel, scale=fan_in**-0.5)
        if bias:
            self.tensor(f"{key}.bias", out_features, scale=0.02)

    def norm(self, key: str, width: int) -> None:
        self.tensor(f"{key}.weight", width, scale=0.1)
        self.weights[f"{key}.weight"] += 1.0
        self.tensor(f"{key}.bias", width, scale=0.02)


def siglip_weights(sizes: Sizes = SIZES, seed: int = 0) -> Weights:
    """A SigLIP vision tower in the layout of `sigclip_vision_patch14_384.safetensors`, without the pooling head."""
    make, width = _Maker(seed), sizes.vision_hidden
    make.linear("vision_model.embeddings.patch_embedding", width, 3, sizes.patch, sizes.patch)
    make.tensor("vision_model.embeddings.position_embedding.weight", sizes.tokens, width, scale=0.5)
    for index in range(sizes.vision_layers):
        layer = f"vision_model.encoder.layers.{index}"
        make.norm(f"{layer}.layer_norm1", width)
        make.norm(f"{layer}.layer_norm2", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            make.linear(f"{layer}.self_attn.{name}", width, width)
        make.linear(f"{layer}.mlp.fc1", sizes.vision_mlp, width)
        make.linear(f"{layer}.mlp.fc2", width, sizes.vision_mlp)
    make.norm("vision_model.post_layernorm", width)
    return make.weights


def redux_weights(sizes: Sizes = SIZES, seed: int = 1) -> Weights:
    """The four keys of `flux1-redux-dev.safetensors`."""
    make = _Maker(seed)
    make.linear("redux_up", 3 * sizes.context, sizes.vision_hidden)
    make.linear("redux_down", sizes.context, 3 * sizes.context)
    return make.weights


def redux_metadata(sizes: Sizes = SIZES) -> dict[str, str]:
    """What a vision or projector file of unusual size says about itself; the fields are those of `redux/config.py`."""
    vision = {
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        "hidden_size": sizes.vision_hidden,
        "num_layers": sizes.vision_layers,
        "num_heads": sizes.vision_heads,
        "mlp_size": sizes.vision_mlp,
    }
    projector = {
        "in_features": sizes.vision_hidden,
        "hidden_features": 3 * sizes.context,
        "out_features": sizes.context,
    }
    return {"redux.config": json.dumps({"vision": vision, "projector": projector})}


def flux_weights(sizes: Sizes = SIZES, seed: int = 2) -> Weights:
    """FLUX.1 with few blocks, in the layout of `flux1-schnell.safetensors` (or dev's, with `guidance`)."""
    make, width = _Maker(seed), sizes.hidden
    make.linear("img_in", width, 64)
    make.linear("txt_in", width, sizes.context)
    embedders = {"time_in": 256, "guidance_in": 256 if sizes.guidance else None, "vector_in": sizes.vector}
    for name, in_features in embedders.items():
        if in_features is not None:
            make.linear(f"{name}.in_layer", width, in_features)
            make.linear(f"{name}.out_layer", width, width)
    for index in range(sizes.double_blocks):
        for stream in ("img", "txt"):
            _double_stream(make, f"double_blocks.{index}.{stream}", width)
    for index in range(sizes.single_blocks):
        block = f"single_blocks.{index}"
        make.linear(f"{block}.linear1", 7 * width, width)
        make.linear(f"{block}.linear2", width, 5 * width)
        make.linear(f"{block}.modulation.lin", 3 * width, width)
        _key_norms(make, f"{block}.norm")
    make.linear("final_layer.adaLN_modulation.1", 2 * width, width)
    make.linear("final_layer.linear", 64, width)
    return make.weights


def _double_stream(make: _Maker, prefix: str, width: int) -> None:
    make.linear(f"{prefix}_mod.lin", 6 * width, width)
    make.linear(f"{prefix}_attn.qkv", 3 * width, width)
    make.linear(f"{prefix}_attn.proj", width, width)
    make.linear(f"{prefix}_mlp.0", 4 * width, width)
    make.linear(f"{prefix}_mlp.2", width, 4 * width)
    _key_norms(make, f"{prefix}_attn.norm")


def _key_norms(make: _Maker, prefix: str) -> None:
    """Scales above 1 sharpen attention: without them random keys average out and no token has any influence."""
    for name in ("query_norm", "key_norm"):
        make.weights[f"{prefix}.{name}.scale"] = torch.full((128,), 1.8)


def vae_weights(seed: int = 3) -> Weights:
    """A TAESD-shaped autoencoder with 16 latent channels: 8 pixels to a latent each way."""
    make = _Maker(seed)
    encoder, decoder = _vae_layers()
    for prefix, layers in (("taesd_encoder", encoder), ("taesd_decoder", decoder)):
        for index, kind, out_features, in_features in layers:
            if kind == "block":
                for step in (0, 2, 4):
                    make.linear(f"{prefix}.{index}.conv.{step}", 64, 64, 3, 3)
            else:
                make.linear(f"{prefix}.{index}", out_features, in_features, 3, 3, bias=kind == "conv")
    # Keep most pixels inside 0..1, where a difference in the latent can be seen.
    make.weights["taesd_decoder.19.weight"] *= 0.2
    make.weights["taesd_decoder.19.bias"] += 0.5
    make.weights["vae_scale"] = torch.tensor(1.0)
    make.weights["vae_shift"] = torch.tensor(0.0)
    return make.weights


def _vae_layers() -> tuple[Iterator[tuple[int, str, int, int]], Iterator[tuple[int, str, int, int]]]:
    """Layers with weights, as (index in the sequence, kind, out, in). "plain" is a convolution without bias."""
    encoder = [("conv", 64, 3), ("block", 64, 64)]
    for _ in range(3):
        encoder += [("plain", 64, 64)] + [("block", 64, 64)] * 3
    encoder += [("conv", 16, 64)]
    decoder = [("none", 0, 0), ("conv", 64, 16), ("none", 0, 0)]
    for _ in range(3):
        decoder += [("block", 64, 64)] * 3 + [("none", 0, 0), ("plain", 64, 64)]
    decoder += [("block", 64, 64), ("conv", 3, 64)]
    return _numbered(encoder), _numbered(decoder)


def _numbered(layers: list[tuple[str, int, int]]) -> Iterator[tuple[int, str, int, int]]:
    return ((index, *layer) for index, layer in enumerate(layers) if layer[0] != "none")


def word_weights(sizes: Sizes = SIZES, seed: int = 4, words: tuple[str, ...] = WORDS) -> Weights:
    """A table of word vectors `words.weight` [number of words, context width]."""
    make = _Maker(seed)
    make.tensor("words.weight", len(words), sizes.context)
    return make.weights


def write_checkpoints(models: Path, sizes: Sizes = SIZES, seed: int = 0, names: FileNames = NAMES) -> FileNames:
    """Write the five files under `models`; the folders are made. Files that are there already are kept.

    Returns:
        The file names, as ComfyUI's loaders list them.
    """
    first = 10 * seed
    metadata = redux_metadata(sizes)
    contents = {
        "clip_vision": (lambda: siglip_weights(sizes, first), metadata),
        "style_models": (lambda: redux_weights(sizes, first + 1), metadata),
        "diffusion_models": (lambda: flux_weights(sizes, first + 2), {}),
        "vae": (lambda: vae_weights(first + 3), {}),
        "text_encoders": (lambda: word_weights(sizes, first + 4), {"redux.words": json.dumps(WORDS)}),
    }
    for folder, name in asdict(names).items():
        build, more = contents[folder]
        path = models / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            save_file(build(), partial, metadata={"format": "pt", **more})
            partial.replace(path)
    return names


def main() -> None:
    models = Path(sys.argv[1])
    try:
        write_checkpoints(models)
    except (OSError, SafetensorError) as error:
        sys.exit(f"error: The small models cannot be written to {models}: {error}.")


if __name__ == "__main__":
    main()
