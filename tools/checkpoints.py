"""Small random-weight checkpoints in the file formats of the real ones, for tests.

    write_checkpoints(models)   ->  clip_vision/, style_models/, diffusion_models/, vae/ and text_encoders/

ComfyUI reads them with its ordinary loaders, as it reads the 12-billion-parameter files. The same seed gives the
same bytes. The builders return state dicts, for tests that need no file.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from miniature.recipe.autoencoder import build_decoder, build_encoder
from miniature.recipe.models import Flux, FluxConfig

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

SPREAD = {"position_embedding": 0.5, "words": 1.0}  # deviations that are no matrix's

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


def draw(shapes: Shapes, seed: int) -> Weights:
    """Random weights, layer by layer, of variance 1 / fan-in, so that a forward pass keeps its scale.

    Scales of keys and queries are above 1, which sharpens attention: without them random keys average out and no token
    has any influence.
    """
    generator, weights = torch.Generator().manual_seed(seed), {}

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for layer in dict.fromkeys(key.rpartition(".")[0] for key in shapes):
        if f"{layer}.weight" in shapes:
            shape = shapes[f"{layer}.weight"]
            deviation = SPREAD.get(layer.rpartition(".")[2]) or prod(shape[1:]) ** -0.5
            weights[f"{layer}.weight"] = random(*shape) * deviation if shape[1:] else random(*shape) * 0.1 + 1.0
        if f"{layer}.bias" in shapes:
            weights[f"{layer}.bias"] = random(*shapes[f"{layer}.bias"]) * 0.02
        if f"{layer}.scale" in shapes:
            weights[f"{layer}.scale"] = torch.full(shapes[f"{layer}.scale"], 1.8)
    return weights


def siglip_weights(sizes: Sizes = SIZES, seed: int = 0) -> Weights:
    """A SigLIP vision tower in the layout of `sigclip_vision_patch14_384.safetensors`, without the pooling head."""
    width, mlp = sizes.vision_hidden, sizes.vision_mlp
    shapes: Shapes = {"embeddings.patch_embedding": (width, 3, sizes.patch, sizes.patch)}
    shapes["embeddings.position_embedding"] = (sizes.tokens, width)
    for index in range(sizes.vision_layers):
        layer = f"encoder.layers.{index}"
        shapes |= {f"{layer}.layer_norm{number}": (width,) for number in (1, 2)}
        shapes |= {f"{layer}.self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        shapes |= {f"{layer}.mlp.fc1": (mlp, width), f"{layer}.mlp.fc2": (width, mlp)}
    shapes["post_layernorm"] = (width,)
    keys: Shapes = {}
    for layer, shape in shapes.items():
        keys[f"vision_model.{layer}.weight"] = shape
        if not layer.endswith("position_embedding"):
            keys[f"vision_model.{layer}.bias"] = shape[:1]
    return draw(keys, seed)


def redux_weights(sizes: Sizes = SIZES, seed: int = 1) -> Weights:
    """The four keys of `flux1-redux-dev.safetensors`."""
    hidden, context = 3 * sizes.context, sizes.context
    shapes: Shapes = {"redux_up.weight": (hidden, sizes.vision_hidden), "redux_up.bias": (hidden,)}
    return draw(shapes | {"redux_down.weight": (context, hidden), "redux_down.bias": (context,)}, seed)


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
    shapes = _shapes(Flux(FluxConfig(sizes.hidden, sizes.double_blocks, sizes.single_blocks, sizes.context)))
    embedders = {"guidance_in": 256 if sizes.guidance else None, "vector_in": sizes.vector}
    for name, inputs in embedders.items():  # which the miniature has none of
        if inputs is not None:
            for layer, columns in (("in_layer", inputs), ("out_layer", sizes.hidden)):
                shapes |= {f"{name}.{layer}.weight": (sizes.hidden, columns), f"{name}.{layer}.bias": (sizes.hidden,)}
    return draw(dict(sorted(shapes.items(), key=_place)), seed)


def vae_weights(seed: int = 3) -> Weights:
    """A TAESD-shaped autoencoder with 16 latent channels: 8 pixels to a latent each way."""
    parts = {"encoder": build_encoder(), "decoder": build_decoder()}
    shapes = {f"taesd_{part}.{key}": shape for part, module in parts.items() for key, shape in _shapes(module).items()}
    weights = draw(shapes, seed)
    # Keep most pixels inside 0..1, where a difference in the latent can be seen.
    weights["taesd_decoder.19.weight"] *= 0.2
    weights["taesd_decoder.19.bias"] += 0.5
    return weights | {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}


def _place(item: tuple[str, Any]) -> tuple[int, ...]:
    """The order of drawing, on which the bytes depend: stream by stream in a block."""
    first, second, third, *_ = [*item[0].split("."), ""]
    order = ("img_in", "txt_in", "time_in", "guidance_in", "vector_in", "double_blocks", "single_blocks", "final_layer")
    return (order.index(first), int(second) if second.isdigit() else second == "linear", third.startswith("txt"))


def _shapes(module: nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def word_weights(sizes: Sizes = SIZES, seed: int = 4, words: tuple[str, ...] = WORDS) -> Weights:
    """A table of word vectors `words.weight` [number of words, context width]."""
    return draw({"words.weight": (len(words), sizes.context)}, seed)


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
