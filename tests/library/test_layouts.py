"""Every checkpoint layout that people have gives the same weights, in one copy, without pickle.

A reference tower is written in each layout and loaded back; the names in the messages are those users see.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from safetensors.torch import save_file
from torch import Tensor
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

import redux
from redux.adapter import from_hf, to_hf, tower_map
from redux.checkpoint import load_projector, load_tower, tower_config
from redux.config import KNOWN_TOWERS, write_metadata
from redux.tensor_files import open_files
from tools import checkpoints

Weights = dict[str, Tensor]
Write = Callable[..., Path]

VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
OURS = redux.SiglipConfig(image_size=56, patch_size=14, hidden_size=64, num_layers=2, num_heads=4, mlp_size=96)
METADATA = write_metadata(vision=OURS)


@pytest.fixture(scope="module")
def tower() -> SiglipVisionModel:
    torch.manual_seed(0)
    model = SiglipVisionModel(SiglipVisionConfig(**VISION)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)  # biases too
    return model


@pytest.fixture(scope="module")
def bare(tower: SiglipVisionModel) -> Weights:
    """Keys without the prefix, as transformers 5 names them."""
    return {key.removeprefix("vision_model."): value.detach() for key, value in tower.state_dict().items()}


@pytest.fixture(scope="module")
def expected(bare: Weights, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Our names for the weights, made by hand: a wrong table in the library cannot agree with it by accident."""
    made = {
        "patch.weight": bare["embeddings.patch_embedding.weight"],
        "patch.bias": bare["embeddings.patch_embedding.bias"],
        "position.weight": bare["embeddings.position_embedding.weight"],
        "norm.weight": bare["post_layernorm.weight"],
        "norm.bias": bare["post_layernorm.bias"],
    }
    for index in range(OURS.num_layers):
        theirs, ours = f"encoder.layers.{index}", f"blocks.{index}"
        for kind in ("weight", "bias"):
            qkv = [bare[f"{theirs}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            made[f"{ours}.attention.qkv.{kind}"] = torch.cat(qkv)
            made[f"{ours}.attention.out.{kind}"] = bare[f"{theirs}.self_attn.out_proj.{kind}"]
            made[f"{ours}.norm1.{kind}"] = bare[f"{theirs}.layer_norm1.{kind}"]
            made[f"{ours}.norm2.{kind}"] = bare[f"{theirs}.layer_norm2.{kind}"]
            made[f"{ours}.mlp.up.{kind}"] = bare[f"{theirs}.mlp.fc1.{kind}"]
            made[f"{ours}.mlp.down.{kind}"] = bare[f"{theirs}.mlp.fc2.{kind}"]
    return made


def assert_same(found: Weights, expected: Weights, tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key].float(), value.float(), rtol=tolerance, atol=tolerance / 100), key


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_repackaged_file(write: Write, bare: Weights, expected: Weights, prefix: str) -> None:
    path = write("tower.safetensors", {prefix + key: value for key, value in bare.items()}, METADATA)
    config, found = load_tower(path)
    assert config == OURS
    assert_same(found, expected)


def test_there_and_back(bare: Weights, expected: Weights) -> None:
    """The same map writes the published layout and reads it."""
    keys = tower_map(OURS, "")
    assert_same(to_hf(keys, expected), {key: value for key, value in bare.items() if not key.startswith("head.")})
    assert_same(from_hf(keys, bare.__getitem__), expected)
    assert {value.dtype for value in from_hf(keys, bare.__getitem__, torch.float16).values()} == {torch.float16}


def test_full_siglip_leaves_the_text_half_unread(write: Write, tower: SiglipVisionModel, expected: Weights) -> None:
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = SiglipModel(SiglipConfig(text_config={**text, "vocab_size": 50}, vision_config=VISION))
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    for key, value in tower.state_dict().items():
        weights[key if key.startswith("vision_model.") else f"vision_model.{key}"] = value
    weights["vision_model.embeddings.position_ids"] = torch.arange(16)[None]
    assert any(key.startswith("text_model.") for key in weights) and "logit_scale" in weights
    config, found = load_tower(write("siglip.safetensors", weights, METADATA))
    assert config == OURS
    assert_same(found, expected)


@pytest.mark.parametrize("shard_size", ["1GB", "60KB"], ids=["single", "sharded"])
def test_hugging_face_folder(tmp_path: Path, tower: SiglipVisionModel, expected: Weights, shard_size: str) -> None:
    """The head count stands in config.json, so that no metadata of ours is needed."""
    tower.save_pretrained(tmp_path, max_shard_size=shard_size)
    sharded = (tmp_path / "model.safetensors.index.json").exists()
    assert sharded == (shard_size == "60KB")
    config, found = load_tower(tmp_path)
    assert config == OURS
    assert_same(found, expected)


def test_full_siglip_folder_reads_the_nested_config(tmp_path: Path) -> None:
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    SiglipModel(SiglipConfig(text_config={**text, "vocab_size": 50}, vision_config=VISION)).save_pretrained(tmp_path)
    config, _ = load_tower(tmp_path)
    assert config == OURS


def test_config_json_may_leave_out_defaults(tmp_path: Path, write: Write, bare: Weights) -> None:
    path = write("folder/model.safetensors", bare)
    said = {key: value for key, value in VISION.items() if key != "layer_norm_eps"}
    (path.parent / "config.json").write_text(json.dumps({"model_type": "siglip_vision_model", **said}))
    config, _ = load_tower(path.parent)
    assert config == OURS


def test_projector_file_and_diffusers_folder(tmp_path: Path) -> None:
    """The four-key file needs metadata when its size is unusual; the folder's config.json says it too."""
    projector = ReduxImageEncoder(redux_dim=64, txt_in_features=48)
    expected = {key: value.detach() for key, value in projector.state_dict().items()}
    size = redux.ReduxConfig(in_features=64, hidden_features=144, out_features=48)
    save_file(expected, tmp_path / "redux.safetensors", metadata=write_metadata(projector=size))
    projector.save_pretrained(tmp_path / "image_embedder")
    for path in (tmp_path / "redux.safetensors", tmp_path / "image_embedder"):
        config, found = load_projector(path)
        assert config == size
        assert_same(found, expected)


def test_pipeline_folder_with_the_plain_file_beside(tmp_path: Path, tower: SiglipVisionModel) -> None:
    """The published repository holds `flux1-redux-dev.safetensors` beside the folders; each part finds its own."""
    projector = ReduxImageEncoder(redux_dim=64, txt_in_features=48)
    projector.save_pretrained(tmp_path / "image_embedder")
    tower.save_pretrained(tmp_path / "image_encoder")
    save_file(projector.state_dict(), tmp_path / "flux1-redux-dev.safetensors")
    model = redux.ReduxModel.load(tmp_path, tmp_path, dtype=torch.float32)
    assert model.encode(torch.rand(1, 60, 60, 3)).tokens.shape == (1, 16, 48)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 0), (torch.float16, 2e-3), (torch.bfloat16, 1e-2), (torch.float8_e4m3fn, 0.2)],
    ids=str,
)
def test_stored_dtypes(write: Write, bare: Weights, expected: Weights, dtype: torch.dtype, tolerance: float) -> None:
    path = write("tower.safetensors", {key: value.to(dtype) for key, value in bare.items()}, METADATA)
    _, found = load_tower(path, dtype=torch.float32)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_same(found, expected, tolerance)
    _, stored = load_tower(path)
    assert {value.dtype for value in stored.values()} == {dtype}


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("per_row", [False, True], ids=["one-scale", "row-scales"])
def test_fp8_with_scales(write: Write, bare: Weights, expected: Weights, name: str, per_row: bool) -> None:
    """Scaled fp8 keeps a 4-bit mantissa for numbers of any size; plain fp8 would flush most of these to zero."""
    weights: Weights = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if name == "scale_weight" else {}
    for key, value in bare.items():
        if value.ndim == 2 and key.startswith("encoder."):
            scale = value.abs().amax(dim=1 if per_row else (0, 1)) / 448
            weights[key] = (value / (scale[:, None] if per_row else scale)).to(torch.float8_e4m3fn)
            layer = key.removesuffix(".weight")
            weights[f"{layer}.{name}"] = scale
            weights[f"{layer}.input_scale"] = torch.ones(())
            weights[f"{layer}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
        else:
            weights[key] = value.to(torch.float16)
    _, found = load_tower(write("tower.safetensors", weights, METADATA), dtype=torch.float32)
    assert_same(found, expected, 0.08)


def test_metadata_says_what_shapes_cannot(write: Write, bare: Weights) -> None:
    """Without metadata the head count of an unusual tower is unknown, and guessing it would give wrong pictures."""
    with pytest.raises(ValueError, match=r"tower.safetensors is a vision tower of width 64 with 2 layers"):
        load_tower(write("tower.safetensors", bare))
    with pytest.raises(ValueError, match="projector of unknown size 128 -> 384 -> 128"):
        load_projector(write("redux.safetensors", checkpoints.redux_weights()))


@pytest.mark.parametrize("name", KNOWN_TOWERS)
def test_known_towers_need_no_metadata(sparse: Callable[..., Path], name: str) -> None:
    config = KNOWN_TOWERS[name]
    with torch.device("meta"):
        model = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.mlp_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
            )
        )
    files = open_files(sparse("tower.safetensors", model.state_dict(), "vision_model."))
    assert tower_config(files) == config
