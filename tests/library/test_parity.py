"""The same numbers as transformers' SiglipVisionModel followed by diffusers' ReduxImageEncoder.

Shapes: B pictures, C channels, Y x X pixels, N tokens, D width.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import SiglipVisionConfig, SiglipVisionModel

import redux
from redux.config import KNOWN_PROJECTORS, KNOWN_TOWERS, write_metadata
from redux.siglip import SiglipVisionTower

TINY = [
    pytest.param({"image_size": 56, "patch_size": 14, "num_attention_heads": 4}, id="patch14"),
    pytest.param({"image_size": 62, "patch_size": 14, "num_attention_heads": 2}, id="patch14-spare-pixels"),
    pytest.param({"image_size": 64, "patch_size": 16, "num_attention_heads": 8}, id="patch16"),
]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def reference_tower(**sizes: int) -> SiglipVisionModel:
    """transformers' tower with every weight drawn at random: its own init leaves biases at zero, which hides errors."""
    config = SiglipVisionConfig(
        **{"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, **sizes}, vision_use_head=False
    )
    with torch.device("meta"):
        model = SiglipVisionModel(config)
    model.to_empty(device="cpu").eval()
    embeddings = getattr(model, "vision_model", model).embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return randomize(model)


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1, generator=generator)
            else:
                weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)
    return model.eval().requires_grad_(False)


def reference(tower: SiglipVisionModel, projector: ReduxImageEncoder, pixels_BCYX: Tensor) -> Tensor:
    return projector(tower(pixels_BCYX).last_hidden_state).image_embeds


@pytest.fixture(params=TINY)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SiglipVisionModel, ReduxImageEncoder, Path]:
    tower = reference_tower(**request.param)
    projector = randomize(ReduxImageEncoder(redux_dim=64, txt_in_features=48))
    tower.save_pretrained(tmp_path / "image_encoder")
    projector.save_pretrained(tmp_path / "image_embedder")
    return tower, projector, tmp_path


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)], ids=str
)
def test_tiny_models(
    pair: tuple[SiglipVisionModel, ReduxImageEncoder, Path], dtype: torch.dtype, tolerance: float
) -> None:
    tower, projector, folder = pair
    model = redux.ReduxModel.load(folder, folder, dtype=dtype)
    size = tower.config.image_size
    pixels_BCYX = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = reference(tower, projector, pixels_BCYX)
    with torch.no_grad():
        found = model(pixels_BCYX.to(dtype))
    assert found.dtype == dtype
    assert relative_error(found, expected) <= tolerance


@pytest.fixture
def full_size(tmp_path: Path) -> Iterator[tuple[SiglipVisionModel, ReduxImageEncoder, Path]]:
    vision, config = KNOWN_TOWERS["SigLIP so400m patch14-384"], next(iter(KNOWN_PROJECTORS.values()))
    tower = reference_tower(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        hidden_size=vision.hidden_size,
        num_hidden_layers=vision.num_layers,
        num_attention_heads=vision.num_heads,
        intermediate_size=vision.mlp_size,
    )
    with torch.device("meta"):
        projector = ReduxImageEncoder(redux_dim=config.in_features, txt_in_features=config.out_features)
    projector = randomize(projector.to_empty(device="cpu"))
    save_file(tower.state_dict(), tmp_path / "tower.safetensors")
    save_file(projector.state_dict(), tmp_path / "projector.safetensors")
    yield tower, projector, tmp_path
    for file in tmp_path.iterdir():
        file.unlink()  # 2 GB, which pytest would keep for three runs
    gc.collect()


def test_full_size(full_size: tuple[SiglipVisionModel, ReduxImageEncoder, Path]) -> None:
    """The real size, 27 layers deep: fp32 within 1e-5, bf16 within 2e-2; nothing but shapes says which model it is."""
    tower, projector, folder = full_size
    pixels_BCYX = torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = reference(tower, projector, pixels_BCYX)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        model = redux.ReduxModel.load(folder / "tower.safetensors", folder / "projector.safetensors", dtype=dtype)
        with torch.no_grad():
            found = model(pixels_BCYX.to(dtype))
        assert found.shape == (1, 729, 4096)
        assert relative_error(found, expected) <= tolerance
        del model


@pytest.fixture(scope="module")
def tower() -> SiglipVisionTower:
    config = redux.SiglipConfig(image_size=126, patch_size=14, hidden_size=32, num_layers=2, num_heads=2, mlp_size=48)
    return randomize(SiglipVisionTower(config))  # type: ignore[return-value]


@pytest.mark.parametrize("grid", [(9, 9), (5, 14), (14, 5), (3, 3), (1, 40), (20, 20)], ids=str)
def test_positions_are_pillows_bicubic(tower: SiglipVisionTower, grid: tuple[int, int]) -> None:
    """Pillow resamples 32-bit float pictures with the same antialiased cubic (a = -0.5), in code of its own."""
    found_ND = tower.positions(grid, torch.device("cpu"))
    table_yxD = tower.position.weight.unflatten(0, (9, 9)).numpy()
    expected_ND = np.stack(
        [
            np.asarray(Image.fromarray(table_yxD[..., d].copy()).resize(grid[::-1], Image.Resampling.BICUBIC)).ravel()
            for d in range(table_yxD.shape[-1])
        ],
        axis=-1,
    )
    assert np.abs(found_ND.numpy() - expected_ND).max() < 1e-5


def test_positions_agree_with_timm(tower: SiglipVisionTower) -> None:
    timm = pytest.importorskip("timm.layers", reason="timm is not installed")
    expected_1ND = timm.resample_abs_pos_embed(tower.position.weight[None], [5, 14], num_prefix_tokens=0)
    assert relative_error(tower.positions((5, 14), torch.device("cpu")), expected_1ND[0]) < 1e-5


def test_other_grids_agree_with_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of another size through transformers' tower, given our table: the order of patches agrees too.

    Its own table would differ: transformers interpolates without antialiasing, with the cubic a = -0.75.
    """
    theirs = reference_tower(image_size=56, patch_size=14, num_attention_heads=2)
    theirs.save_pretrained(tmp_path / "tower")
    projector = redux.ReduxConfig(in_features=64, hidden_features=96, out_features=32)
    save_file(
        {
            "redux_up.weight": torch.randn(96, 64),
            "redux_up.bias": torch.randn(96),
            "redux_down.weight": torch.randn(32, 96),
            "redux_down.bias": torch.randn(32),
        },
        tmp_path / "projector.safetensors",
        metadata=write_metadata(projector=projector),
    )
    ours = redux.ReduxModel.load(tmp_path / "tower", tmp_path / "projector.safetensors", dtype=torch.float32).tower
    pixels_BCYX = torch.rand(1, 3, 84, 42, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        found = ours(pixels_BCYX)
        embeddings = getattr(theirs, "vision_model", theirs).embeddings
        table = ours.positions((6, 3), torch.device("cpu"))[None]
        monkeypatch.setattr(embeddings, "interpolate_pos_encoding", lambda *_: table)
        expected = theirs(pixels_BCYX, interpolate_pos_encoding=True).last_hidden_state
    assert relative_error(found, expected) <= 1e-5


def test_interpolation_is_computed_in_fp32(tower: SiglipVisionTower) -> None:
    """A bf16 table is widened first: the result differs from the fp32 one by no more than the table's own rounding."""
    half = SiglipVisionTower(tower.config, dtype=torch.bfloat16)
    half.load_state_dict(tower.state_dict())
    rounded = SiglipVisionTower(tower.config)
    rounded.load_state_dict(half.state_dict())
    grid, device = (5, 14), torch.device("cpu")
    with torch.no_grad():
        assert half.positions(grid, device).dtype == torch.float32
        assert torch.equal(half.positions(grid, device), rounded.positions(grid, device))
