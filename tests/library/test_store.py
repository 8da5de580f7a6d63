"""References on disk: they come back as they were, nothing is overwritten, and what is no such file is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import redux
from redux.store import write_tensors
from redux.tokens import METADATA_KEY, Part, ReduxTokens

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]


def make(**more: Any) -> ReduxTokens:
    generator = torch.Generator().manual_seed(3)
    parts = (Part(((2, 3), (1, 2)), 729), Part(((2, 2),), 1024, 0.25))
    coverage_BN = torch.rand(2, 12, generator=generator).mul(2).floor()
    values = {"coverage": coverage_BN, "encoder": "abc", "about": {"fit": "tiles", "size": [30, 40]}, **more}
    return ReduxTokens(torch.randn(2, 12, 8, generator=generator), parts, **values)


def assert_same(found: ReduxTokens, expected: ReduxTokens) -> None:
    assert found.tokens.dtype == expected.tokens.dtype
    assert torch.equal(found.tokens.view(torch.uint8), expected.tokens.contiguous().view(torch.uint8))
    assert (found.coverage is None) == (expected.coverage is None)
    if found.coverage is not None and expected.coverage is not None:
        assert torch.equal(found.coverage, expected.coverage)
    assert (found.parts, found.encoder, found.about) == (expected.parts, expected.encoder, expected.about)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masked", [True, False])
def test_round_trip(tmp_path: Path, dtype: torch.dtype, masked: bool) -> None:
    tokens = make() if masked else make(coverage=None)
    tokens = ReduxTokens(tokens.tokens.to(dtype), tokens.parts, tokens.coverage, tokens.encoder, tokens.about)
    tokens.save(tmp_path / "new" / "folder" / "face.safetensors")
    assert_same(ReduxTokens.load(tmp_path / "new" / "folder" / "face.safetensors"), tokens)
    assert os.listdir(tmp_path / "new" / "folder") == ["face.safetensors"]


@settings(max_examples=60, deadline=None)
@given(
    grids=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    full=st.integers(1, 4096),
    weight=st.floats(1e-30, 1e30),
    encoder=st.text(max_size=20),
    about=st.dictionaries(st.text(max_size=9), st.none() | st.integers() | st.text(max_size=9) | st.booleans()),
)
def test_any_reference_round_trips(
    tmp_path_factory: pytest.TempPathFactory, grids: Any, batch: int, full: int, weight: float, encoder: str, about: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    part = Part(tuple(grids), full, weight)
    tokens = ReduxTokens(torch.randn(batch, part.length, 4), (part,), None, encoder, about)
    tokens.save(path)
    assert_same(ReduxTokens.load(path), tokens)


def test_a_view_of_other_tokens_is_saved_as_it_is_and_alone(tmp_path: Path) -> None:
    large_BND = torch.randn(2, 1000, 8)
    tokens = ReduxTokens(large_BND[:, ::2][:, :6], (Part(((2, 3),), 729),))
    tokens.save(tmp_path / "x.safetensors")
    assert_same(ReduxTokens.load(tmp_path / "x.safetensors"), tokens)
    assert (tmp_path / "x.safetensors").stat().st_size < 4096


def test_metadata_says_where_the_tokens_come_from(tmp_path: Path, model: redux.ReduxModel, photo: Callable) -> None:
    model.encode(photo(40, 60), fit="crop", position="left").save(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as handle:
        facts = json.loads(handle.metadata()[METADATA_KEY])
    assert facts == {
        "version": 1,
        "writer": f"redux-control {redux.__version__}",
        "encoder": model.encoder,
        "parts": [{"grids": [[8, 8]], "full_count": 64, "weight": 1.0}],
        "about": {"fit": "crop", "position": "left"},
    }
    project = Path(__file__).parents[2].joinpath("pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{redux.__version__}"\n' in project


def test_the_loaded_file_may_be_deleted_or_replaced(tmp_path: Path) -> None:
    """Tokens are read into memory, not mapped: Windows could not delete the file, and others could change it."""
    path = tmp_path / "x.safetensors"
    make().save(path)
    loaded = ReduxTokens.load(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert_same(loaded, make())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="is there already; choose another name, since nothing is overwritten"):
        make().save(path)
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == ["x.safetensors"]


def test_of_many_threads_one_writes(tmp_path: Path) -> None:
    path, results, barrier = tmp_path / "x.safetensors", [], threading.Barrier(12)

    def work(index: int) -> None:
        barrier.wait()
        try:
            write_tensors(path, {"x": torch.full((50_000,), float(index))}, "facts", 1, {"owner": index})
            results.append(index)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=work, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = results
    with safe_open(path, "pt") as handle:
        assert json.loads(handle.metadata()["facts"])["owner"] == winner
        assert bool((handle.get_tensor("x") == winner).all())
    assert os.listdir(tmp_path) == ["x.safetensors"]


WRITER = """
import sys, torch
from pathlib import Path
from redux.store import write_tensors
sys.stdin.readline()
won = 0
for index in range(20):
    try:
        path = Path(sys.argv[1]) / f"{index}.safetensors"
        write_tensors(path, {"x": torch.zeros(9)}, "facts", 1, {"owner": sys.argv[2]})
        won += 1
    except FileExistsError:
        pass
print(won)
"""


def test_of_two_processes_each_file_has_one_writer(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(i)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    won = [int(writer.communicate("\n", timeout=500)[0]) for writer in writers]
    assert sum(won) == 20
    assert sorted(os.listdir(tmp_path)) == sorted(f"{index}.safetensors" for index in range(20))
    owners = []
    for index in range(20):
        with safe_open(tmp_path / f"{index}.safetensors", "pt") as handle:
            owners.append(json.loads(handle.metadata()["facts"])["owner"])
    assert [owners.count("0"), owners.count("1")] == won


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("redux.store.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        make().save(tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from redux import store
from redux.store import write_tensors
save = store.save_file
def save_and_die(*arguments, **more):
    save(*arguments, **more)
    os.kill(os.getpid(), signal.SIGKILL)
store.save_file = save_and_die
write_tensors(Path(sys.argv[1]), {"x": torch.zeros(9)}, "facts", 1, {})
"""


def test_a_writer_that_is_killed_leaves_no_file_of_this_name(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root).returncode == -signal.SIGKILL
    assert not path.exists() and all(name.startswith(".") for name in os.listdir(tmp_path))
    make().save(path)
    assert_same(ReduxTokens.load(path), make())


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    make().save(tmp_path / "x.safetensors")
    assert_same(ReduxTokens.load(tmp_path / "x.safetensors"), make())
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        make().save(tmp_path / "x.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_write_that_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk; safetensors wraps what the system says."""
    resource = pytest.importorskip("resource")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="x.safetensors cannot be written: .+[.]$"):
            make().save(tmp_path / "x.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("")
    with pytest.raises(NotADirectoryError, match="folder is a file; a folder is needed to save x.safetensors in"):
        make().save(tmp_path / "folder" / "x.safetensors")
