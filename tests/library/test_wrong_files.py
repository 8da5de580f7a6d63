"""A wrong file is refused with one sentence that says what it is and what is needed.

The wrong models come from their own libraries, with their real names and shapes; where the real size matters, as
files without bytes behind the header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

import redux
from redux.checkpoint import load_projector, load_tower
from redux.config import KNOWN_TOWERS, METADATA_KEY, write_metadata
from tools import checkpoints

Weights = dict[str, Tensor]
Write = Callable[..., Path]

SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
TINY_TEXT = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 50}


def message(error: pytest.ExceptionInfo[Any]) -> str:
    """The error's text, after checking that it is one sentence a person can read."""
    text = str(error.value)
    assert "\n" not in text
    assert 20 < len(text) < 300
    assert text.endswith(".")
    return text


def refused(load: Callable[[Path], object], path: Path, *words: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        load(path)
    text = message(caught)
    for word in words:
        assert word in text, text


def on_meta(model_class: Any, config: Any) -> Weights:
    with torch.device("meta"):
        return model_class(config).state_dict()


def clip(size: int, layers: int, **more: int) -> Weights:
    config = transformers.CLIPVisionConfig(
        hidden_size=size, intermediate_size=4 * size, num_hidden_layers=layers, num_attention_heads=16, **more
    )
    return on_meta(transformers.CLIPVisionModelWithProjection, config)


def siglip(**sizes: int) -> Weights:
    return on_meta(transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**sizes))


def naflex() -> Weights:
    return on_meta(transformers.Siglip2VisionModel, transformers.Siglip2VisionConfig(**SO400M))


def clip_text() -> Weights:
    return on_meta(transformers.CLIPTextModel, transformers.CLIPTextConfig(num_hidden_layers=1))


TOWERS: list[tuple[str, Callable[[], Weights], str]] = [
    ("CLIP ViT-H", lambda: clip(1280, 32, image_size=224, patch_size=14), "is CLIP ViT-H"),
    ("CLIP ViT-L", lambda: clip(1024, 24, image_size=224, patch_size=14), "is CLIP ViT-L/14"),
    ("CLIP ViT-L 336", lambda: clip(1024, 24, image_size=336, patch_size=14), "is CLIP ViT-L/14-336"),
    ("SigLIP base", lambda: siglip(image_size=224), "is SigLIP base patch16-224"),
    ("so400m 224", lambda: siglip(image_size=224, patch_size=14, **SO400M), "is SigLIP so400m patch14-224"),
    ("so400m 2 384", lambda: siglip(image_size=384, patch_size=16, **SO400M), "is SigLIP 2 so400m patch16-384"),
    ("NaFlex", naflex, "is SigLIP 2 NaFlex"),
    ("CLIP text", clip_text, "is a CLIP text encoder"),
    (
        "DINOv2",
        lambda: on_meta(transformers.Dinov2Model, transformers.Dinov2Config(num_hidden_layers=2)),
        "is DINOv2",
    ),
    ("T5", lambda: on_meta(transformers.T5EncoderModel, transformers.T5Config(**TINY_TEXT)), "is a T5 text encoder"),
]


@pytest.mark.parametrize(("build", "found"), [pytest.param(*row[1:], id=row[0]) for row in TOWERS])
def test_other_models_as_vision_tower(sparse: Write, build: Callable[[], Weights], found: str) -> None:
    prefix = "" if "T5" in found or "DINO" in found or "text" in found else "vision_model."
    weights = {key.removeprefix("vision_model."): value for key, value in build().items()}
    path = sparse("chosen.safetensors", weights, prefix)
    refused(load_tower, path, "chosen.safetensors", found, "SigLIP so400m", "sigclip_vision_patch14_384", "clip_vision")
    refused(load_projector, path, found, "flux1-redux-dev.safetensors", "models/style_models")


def lora_over_flux() -> Weights:
    return {
        f"diffusion_model.double_blocks.0.img_attn.qkv.{part}.weight": torch.zeros(shape)
        for part, shape in (("lora_A", (4, 64)), ("lora_B", (192, 4)))
    }


def kohya_lora() -> Weights:
    name = "lora_unet_single_blocks_0_linear1"
    return {f"{name}.lora_down.weight": torch.zeros(4, 64), f"{name}.lora_up.weight": torch.zeros(64, 4)}


def kl_autoencoder() -> Weights:
    return AutoencoderKL(block_out_channels=(32,), norm_num_groups=4).state_dict()


def diffusers_flux() -> Weights:
    return FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1, axes_dims_rope=(4, 6, 6)
    ).state_dict()


OTHERS: list[tuple[str, Callable[[], Weights], str]] = [
    ("FLUX", checkpoints.flux_weights, "is a FLUX diffusion model"),
    ("FLUX in diffusers", diffusers_flux, "is a FLUX diffusion model in diffusers layout"),
    ("TAESD", checkpoints.vae_weights, "is a TAESD autoencoder"),
    ("VAE", kl_autoencoder, "is a VAE"),
    ("LoRA", lora_over_flux, "is a LoRA"),
    ("kohya LoRA", kohya_lora, "is a LoRA"),
    ("style adapter", lambda: {"style_embedding": torch.zeros(1, 8, 4), "ln_post.weight": torch.zeros(4)}, "is a T2I"),
    ("unknown", lambda: {"layer.7.weight": torch.zeros(2)}, "is an unknown checkpoint (1 tensors, e.g. 'layer.7"),
    ("no tensors", dict, "is an unknown checkpoint (0 tensors"),
]


@pytest.mark.parametrize(("build", "found"), [pytest.param(*row[1:], id=row[0]) for row in OTHERS])
def test_other_models_as_either(write: Write, build: Callable[[], Weights], found: str) -> None:
    weights = {key: value.contiguous() for key, value in build().items()}
    path = write("chosen.safetensors", weights)
    refused(load_tower, path, "chosen.safetensors", found, "SigLIP so400m")
    refused(load_projector, path, "chosen.safetensors", found, "Redux needs the projector")


def test_the_two_files_swapped(files: tuple[Path, Path]) -> None:
    vision, projector = files
    refused(load_tower, projector, "is a Redux projector", "SigLIP so400m")
    refused(load_projector, vision, "is a vision tower of width 128", "flux1-redux-dev.safetensors")


def test_a_well_known_other_tower_is_refused_with_its_config_too(sparse: Write) -> None:
    """Its config.json describes it, but no Redux was trained for it."""
    path = sparse("model.safetensors", siglip(image_size=224, patch_size=14, **SO400M))
    config = {"model_type": "siglip_vision_model", "image_size": 224, "patch_size": 14, **SO400M}
    (path.parent / "config.json").write_text(json.dumps(config))
    refused(load_tower, path.parent, "is SigLIP so400m patch14-224", "SigLIP so400m, e.g.")


def test_damaged_files(tmp_path: Path, files: tuple[Path, Path]) -> None:
    whole = files[0].read_bytes()
    cases = {
        "cut.safetensors": whole[:-10],
        "cut-in-header.safetensors": whole[:500],
        "long.safetensors": whole + b"more",
        "empty.safetensors": b"",
        "text.safetensors": b"<html>401: please log in to download this file</html>",
        "garbled.safetensors": whole[:8] + bytes(reversed(whole[8:])),
        "zip.safetensors": b"PK\x03\x04" + bytes(200),
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        for load in (load_tower, load_projector):
            refused(load, path, name, f"({len(content)} bytes)", "not a safetensors file", "truncated")


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "model.CKPT"])
def test_pickles_are_not_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save({"redux_up.weight": torch.zeros(1)}, path)
    refused(load_projector, path, name, "pickled", ".safetensors file is needed")


def test_missing_files(tmp_path: Path, files: tuple[Path, Path]) -> None:
    refused(load_tower, tmp_path / "no.safetensors", "no.safetensors", "There is no file", error=FileNotFoundError)
    (tmp_path / "folder").mkdir()
    refused(load_tower, tmp_path / "folder", "folder", "holds no .safetensors file")
    index = tmp_path / "folder" / "model.safetensors.index.json"
    for content, words, error in (
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "model-00001-of-00002", FileNotFoundError),
        ('{"weight_map": {}}', "lists no shards", ValueError),
        ("[1, 2]", "lists no shards", ValueError),
        ('{"weight_map": ', "is not valid JSON", ValueError),
    ):
        index.write_text(content)
        refused(load_tower, tmp_path / "folder", words, error=error)
        refused(load_tower, index, words, error=error)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{not json", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"vision": {"hidden": 3}}', "hidden"),
        ('{"vision": {"num_heads": 0}}', "num_heads is 0"),
        ('{"vision": {"num_heads": 2.5}}', "num_heads is 2.5"),
        ('{"vision": {"num_heads": "16"}}', "num_heads is '16'"),
        ('{"vision": {"num_heads": 7}}', "not a multiple of its 7 heads"),
        ('{"vision": {"patch_size": 500}}', "exceeds its image"),
    ],
)
def test_damaged_metadata(write: Write, text: str, found: str) -> None:
    path = write("tower.safetensors", checkpoints.siglip_weights(), {METADATA_KEY: text})
    refused(load_tower, path, "tower.safetensors", METADATA_KEY, found)


def test_damaged_config_json(write: Write) -> None:
    path = write("folder/model.safetensors", checkpoints.siglip_weights())
    for content, found in (
        ('{"model_type": "siglip_vision_model", "num_attention_heads": 5}', "not a multiple of its 5 heads"),
        ('{"model_type": "siglip_vision_model", "patch_size": "14"}', "patch_size is '14'"),
        ("{", "is not valid JSON"),
        ('{"model_type": "clip_vision_model"}', "is a vision tower of width 128"),
        ('{"vision_config": null}', "is a vision tower of width 128"),
    ):
        (path.parent / "config.json").write_text(content)
        refused(load_tower, path.parent, found)


def test_metadata_that_does_not_fit_the_weights(write: Write) -> None:
    """A tower is never built from a description that its own tensors contradict."""
    weights = checkpoints.siglip_weights()
    one_layer = checkpoints.redux_metadata(checkpoints.Sizes(vision_layers=1))
    refused(load_tower, write("a.safetensors", weights, one_layer), "is a vision tower of width 128 with 2 layers")
    other_mlp = checkpoints.redux_metadata(checkpoints.Sizes(vision_mlp=300))
    refused(load_tower, write("b.safetensors", weights, other_mlp), "mlp.fc1.weight", "(256, 128)", "(300, 128)")


def test_incomplete_and_foreign_tensors(write: Write) -> None:
    metadata = checkpoints.redux_metadata()
    weights = checkpoints.siglip_weights()
    gone = {key: value for key, value in weights.items() if not key.endswith("layers.1.mlp.fc2.bias")}
    refused(load_tower, write("a.safetensors", gone, metadata), "has no tensor", "layers.1.mlp.fc2.bias")
    more = {**weights, "vision_model.encoder.layers.0.adapter.weight": torch.zeros(3)}
    refused(load_tower, write("b.safetensors", more, metadata), "1 tensors that are not part", "adapter.weight")
    flat = {**weights, "vision_model.embeddings.position_embedding.weight": torch.zeros(64)}
    refused(load_tower, write("c.safetensors", flat, metadata), "SigLIP so400m")
    scalar = {**weights, "vision_model.embeddings.patch_embedding.weight": torch.zeros(())}
    refused(load_tower, write("d.safetensors", scalar, metadata), "is a damaged vision tower")


def test_quantised_tensors_are_not_read_as_numbers(write: Write) -> None:
    metadata, weights = checkpoints.redux_metadata(), checkpoints.redux_weights()
    weights["redux_up.weight"] = torch.ones_like(weights["redux_up.weight"], dtype=torch.int8)
    refused(load_projector, write("int8.safetensors", weights, metadata), "redux_up.weight", "stored as I8", "fp8")
    weights["redux_up.weight"] = weights["redux_up.weight"].to(torch.float8_e4m3fn)
    weights["redux_up.weight_scale"] = torch.ones(24, 4)
    refused(load_projector, write("blocks.safetensors", weights, metadata), "redux_up.weight_scale", "(24, 4)")


def test_a_projector_for_another_tower(write: Write, files: tuple[Path, Path]) -> None:
    sizes = checkpoints.Sizes(vision_hidden=96)
    path = write("redux.safetensors", checkpoints.redux_weights(sizes), checkpoints.redux_metadata(sizes))
    with pytest.raises(ValueError) as caught:
        redux.ReduxModel.load(files[0], path)
    assert re.search(r"width 128 .* width 96; choose two files that were trained together", message(caught))


def test_configurations_check_themselves() -> None:
    for values in ({"num_layers": 0}, {"num_layers": True}, {"hidden_size": 1152.0}, {"num_heads": 5}):
        with pytest.raises(ValueError):
            redux.SiglipConfig(**values)  # type: ignore[arg-type]
    text = write_metadata(vision=KNOWN_TOWERS["SigLIP so400m patch14-384"], title="mine")
    assert json.loads(text[METADATA_KEY]).keys() == {"vision"} and text["title"] == "mine"
