"""Resampling equals Pillow's at every size, and its memory is bounded by what goes in and what comes out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from redux import resample
from redux.config import SiglipConfig
from redux.siglip import SiglipVisionTower

sides = st.integers(1, 900)
new_pillow = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="it always goes across first")


@new_pillow
@settings(max_examples=60, deadline=None)
@given(size=st.tuples(sides, sides), to=st.tuples(st.integers(8, 400), st.integers(8, 400)), seed=st.integers(0, 9))
def test_every_size_is_pillows(size: tuple[int, int], to: tuple[int, int], seed: int) -> None:
    """Noise, at which the order of the passes changes a quarter of all values, by up to 23 levels."""
    pixels_YX = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels_YX).resize(to[::-1], Image.Resampling.BICUBIC)).astype(int)
    found_11YX = resample.resize(torch.from_numpy(pixels_YX).float().div(255)[None, None], to)
    difference = np.abs(found_11YX[0, 0].mul(255).round().int().numpy() - expected)
    assert difference.max() <= 2
    assert (difference > 0).sum() <= max(0.02 * difference.size, 2 * max(to)), "of few values, two rows or columns"


@new_pillow
@pytest.mark.parametrize("size", [(20000, 3), (5000, 40), (3000, 1000), (1000, 3000), (3, 20000)], ids=str)
def test_long_pictures_are_pillows(photo: Callable[..., Tensor], size: tuple[int, int]) -> None:
    pixels_YX = photo(*size)[0, ..., 0].mul(255).round().byte()
    expected = np.asarray(Image.fromarray(pixels_YX.numpy()).resize((384, 384), Image.Resampling.BICUBIC)).astype(int)
    found_11YX = resample.resize(pixels_YX.float().div(255)[None, None], (384, 384))
    difference = np.abs(found_11YX[0, 0].mul(255).round().int().numpy() - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.005


CHILD = """
import re, sys, torch
import redux
from redux.preview import draw_views
from redux.region import region_on_grid
torch.set_num_threads(1)
height, width, kinds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
config = redux.SiglipConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
model = redux.ReduxModel(config, redux.ReduxConfig(in_features=32, hidden_features=48, out_features=8)).eval()
def run(kind, height, width):
    picture, other = torch.rand(1, height, width, 3), torch.ones(1, width, height)
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins again at what is held now
    start = peak()
    if kind == "region":
        region_on_grid(other, (128, 128), 2)
    else:
        views = model.views(picture, fit=kind.split()[0], mask=other if "mask" in kind else None)
        assert all(bool(view.pixels_BCST.isfinite().all()) for view in views)
        draw_views(views, model.encode_views(views))
    return peak() - start
def peak():
    return int(re.search("VmHWM:\\\\s+([0-9]+)", open("/proc/self/status").read())[1]) * 1024
for kind in kinds:
    run(kind, 64, 48)
    print(kind, run(kind, height, width), sep="=")
"""

KINDS = ["stretch", "crop", "pad", "native", "tiles", "stretch mask", "pad mask", "region"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def memory_of(root: Path, size: tuple[int, int], kinds: list[str]) -> dict[str, int]:
    """Bytes beyond the picture at the peak of each kind of preprocessing, in a process of its own."""
    command = [sys.executable, "-c", CHILD, *map(str, size), *kinds]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pairs = (line.split("=") for line in done.stdout.splitlines())
    return {kind: int(beyond) for kind, beyond in pairs}


@linux
@pytest.mark.parametrize("size", [(500_000, 4), (4, 500_000)], ids=str)
def test_long_pictures_need_little_memory(root: Path, size: tuple[int, int]) -> None:
    """24 MB of numbers; across first, the tall one would be 2.3 GB in between, its mask 1 TB."""
    beyond = memory_of(root, size, KINDS)
    assert list(beyond) == KINDS
    assert {kind: used for kind, used in beyond.items() if used > 100e6} == {}


@linux
def test_a_picture_of_64_megapixels_in_one_column(root: Path) -> None:
    size = 16_000_000, 4
    assert memory_of(root, size, ["stretch"])["stretch"] < 2.5 * 4 * 3 * size[0] * size[1]


class Elsewhere:
    """Stands for a tensor of a device without antialiased kernels."""

    device = torch.device("meta")

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def cpu(self) -> Tensor:
        return self.values


@pytest.mark.parametrize("resize", [resample.resize, resample.resize_mask])
def test_a_device_without_the_kernel_uses_the_cpus(resize: Callable[..., Tensor], monkeypatch: Any) -> None:
    """What is computed is computed on the CPU, and the result is where the picture was."""
    seen: list[Tensor] = []

    def interpolate(values: Tensor, **options: Any) -> Tensor:
        assert values.device.type == "cpu"
        seen.append(torch.nn.functional.interpolate(values, **options))
        return seen[-1]

    monkeypatch.setattr(resample, "interpolate", interpolate)
    values = torch.rand(1, 1, 9, 7)
    found = resample.resample(Elsewhere(values), (5, 6), "bicubic")  # type: ignore[arg-type]
    assert found.device == Elsewhere.device and found.shape == (1, 1, 5, 6)
    resize(values, (5, 6))
    assert len(seen) == 3, "nobody interpolates past it"


def test_positions_of_the_tower_use_it(monkeypatch: Any) -> None:
    tower = SiglipVisionTower(SiglipConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32))
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "redux.siglip.resample", lambda table, size, mode: sizes.append(size) or resample.resample(table, size, mode)
    )
    assert tower.positions((9, 20), torch.device("cpu")).shape == (180, 32) and sizes == [(9, 20)]
