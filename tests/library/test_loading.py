"""A model as it is loaded: in one copy, by a fingerprint of its weights, in any dtype that computes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import redux
from redux.model import load_state_dict
from tools import checkpoints

Weights = dict[str, Tensor]
Write = Callable[..., Path]


def test_a_fresh_process_loads_and_encodes(files: tuple[Path, Path], root: Path) -> None:
    code = (
        "import sys, torch, redux; "
        "model = redux.ReduxModel.load(*sys.argv[1:]); "
        "print(tuple(model.encode(torch.rand(2, 30, 40, 3)).tokens.shape), model.dtype)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(2, 64, 128) torch.bfloat16"


MEASURE = """
import sys, torch, redux

def megabytes(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024

dtype = getattr(torch, sys.argv[3])
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here
before, own_before = megabytes("VmRSS"), megabytes("RssAnon")
model = redux.ReduxModel.load(sys.argv[1], sys.argv[2], dtype=dtype)
print(megabytes("VmHWM") - before, megabytes("RssAnon") - own_before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of memory")
@pytest.mark.parametrize(("dtype", "copies"), [("float16", 1), ("bfloat16", 2)])
def test_one_copy_of_the_weights_at_most(tmp_path: Path, root: Path, dtype: str, copies: int) -> None:
    """A 200 MB file of fp16: in its own dtype mapped pages and the joined q, k, v; converted, one copy and the pages.

    Pages of a mapped file count as resident while they are read, although they can be dropped at any time; memory
    of the process itself never exceeds one copy of the weights.
    """
    sizes = checkpoints.Sizes(vision_hidden=1024, vision_mlp=4096, vision_layers=8, vision_heads=16)
    metadata = checkpoints.redux_metadata(sizes)
    tower = {key: value.half() for key, value in checkpoints.siglip_weights(sizes).items()}
    paths = tmp_path / "tower.safetensors", tmp_path / "redux.safetensors"
    save_file(tower, paths[0], metadata=metadata)
    save_file(checkpoints.redux_weights(sizes), paths[1], metadata=metadata)
    megabytes = sum(path.stat().st_size for path in paths) / 2**20
    assert megabytes > 190
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths), dtype],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    paths[0].unlink()
    peak, own = map(float, done.stdout.split())
    assert own < 1.05 * megabytes
    assert peak < (copies + 0.2) * megabytes


def test_fingerprint_names_weights_not_files(write: Write, files: tuple[Path, Path]) -> None:
    """The same in every dtype and layout; another one for a fine-tune that moved nothing but one matrix."""
    tower, projector = load_file(files[0]), load_file(files[1])
    metadata = checkpoints.redux_metadata()
    names = {load_state_dict(*files, dtype=dtype)[2] for dtype in (None, torch.float32, torch.bfloat16, torch.float16)}
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        stored = [
            write(f"{part}.safetensors", {key: value.to(dtype) for key, value in weights.items()}, metadata)
            for part, weights in (("tower", tower), ("redux", projector))
        ]
        names.add(load_state_dict(*stored, dtype=torch.float32)[2])
    renamed = {key.removeprefix("vision_model."): value for key, value in tower.items()}
    names.add(load_state_dict(write("bare.safetensors", renamed, metadata), files[1])[2])
    assert len(names) == 1

    tuned = dict(projector)
    tuned["redux_up.weight"] = tuned["redux_up.weight"] + 0.02 * torch.randn_like(tuned["redux_up.weight"])
    other_seed = write("other.safetensors", checkpoints.siglip_weights(seed=7), metadata)
    names.add(load_state_dict(files[0], write("tuned.safetensors", tuned, metadata))[2])
    names.add(load_state_dict(other_seed, files[1])[2])
    assert len(names) == 3
    assert all(len(name) == 12 for name in names)


def test_loading_leaves_the_files_as_they_were(files: tuple[Path, Path]) -> None:
    before = [path.read_bytes() for path in files]
    model = redux.ReduxModel.load(*files, dtype=torch.float32)
    model.encode(torch.rand(1, 40, 40, 3))
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64], ids=str)
def test_a_dtype_that_cannot_compute_is_refused(files: tuple[Path, Path], dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="cannot compute in .*choose one of torch.bfloat16"):
        redux.ReduxModel.load(*files, dtype=dtype)


def test_moved_and_converted_models_follow(files: tuple[Path, Path]) -> None:
    model = redux.ReduxModel.load(*files, dtype=torch.float32)
    image = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(0))
    expected = model.encode(image).tokens
    assert model.to(torch.bfloat16).dtype == torch.bfloat16
    found = model.encode(image).tokens
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 2e-2
