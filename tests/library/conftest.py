"""Tests of the torch library: tiny random weights, other people's implementations as references, no ComfyUI.

The repository root stands at the end of sys.path, so that its `nodes` folder shadows nobody's, and behind it this
folder, for what several test files share.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [
    *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT),
    str(ROOT),
    str(Path(__file__).parent),
]

torch.backends.cudnn.allow_tf32 = False  # exact on a GPU as on a CPU
# transformers 5 and its diffusers need torch 2.6; below it the implementations that ours is compared with are missing.
PEERS = ("diffusers", "layouts", "parity", "preprocessing", "wrong_files")
collect_ignore = [f"test_{name}.py" for name in PEERS] if torch.__version__ < "2.6" else []

import redux  # noqa: E402
from tools import checkpoints  # noqa: E402

Photo = Callable[..., Tensor]
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small vision tower and projector on disk, in the layout of the real files."""
    models = tmp_path_factory.mktemp("models")
    names = checkpoints.write_checkpoints(models)
    return models / "clip_vision" / names.clip_vision, models / "style_models" / names.style_models


@pytest.fixture(scope="session")
def model(files: tuple[Path, Path]) -> redux.ReduxModel:
    """The two files loaded in fp32: 112 pixels, 8 x 8 tokens, vision width 128, text width 128."""
    return redux.ReduxModel.load(*files, dtype=torch.float32)


@pytest.fixture(scope="session")
def photo() -> Photo:
    """photo(height, width, batch=1, seed=0, channels=3) -> [B, H, W, C] in 0..1: shapes, edges, texture and noise."""

    def make(height: int, width: int, batch: int = 1, seed: int = 0, channels: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        image_BCYX = torch.zeros(batch, channels, height, width)
        for cells, strength in ((3, 0.6), (12, 0.4), (60, 0.3)):
            coarse = torch.rand(batch, channels, cells, cells, generator=generator) - 0.5
            mode = "bicubic" if cells < 60 else "nearest"
            image_BCYX += strength * torch.nn.functional.interpolate(coarse, size=(height, width), mode=mode)
        image_BCYX += 0.05 * torch.randn(image_BCYX.shape, generator=generator)
        image_BCYX[..., height // 3 : height // 2, width // 4 : width // 2] += 0.4
        return (image_BCYX + 0.5).clamp(0, 1).movedim(1, -1).contiguous()

    return make


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(name, weights, metadata=None) -> path of a new safetensors file."""

    def make(name: str, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path, metadata=metadata)
        return path

    return make


@pytest.fixture
def sparse(tmp_path: Path) -> Callable[..., Path]:
    """sparse(name, weights, prefix="") -> a file with the shapes of (meta) tensors and no bytes behind its header.

    So the real, large models stand on disk for nothing: as fp8, with a hole in the file where the weights would be.
    """

    def make(name: str, weights: dict[str, Tensor], prefix: str = "") -> Path:
        header, end = {}, 0
        for key, value in weights.items():
            offsets = [end, end + value.numel()]
            header[prefix + key] = {"dtype": "F8_E4M3", "shape": list(value.shape), "data_offsets": offsets}
            end = offsets[1]
        text = json.dumps(header).encode()
        path = tmp_path / name
        with path.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
        return path

    return make
