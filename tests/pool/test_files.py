"""The file store: a folder and a real S3-compatible server behind the same calls."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caller import load
from s3 import S3Server
from scenes import wait_until

files = load("pool.files")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "folder":
        return files.PoolFiles(str(tmp_path / "files"))
    server: S3Server = request.getfixturevalue("s3")
    return files.PoolFiles(f"s3://{server.bucket()}/some/prefix", **server.options)


def test_a_file_comes_back_as_it_was(store: Any, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "a.png").write_bytes(content)
    assert not store.exists("inputs/a.png")
    store.put(tmp_path / "a.png", "inputs/a.png")
    assert store.exists("inputs/a.png") and store.read("inputs/a.png") == content
    store.get("inputs/a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == content
    store.write("inputs/a.png", b"new")
    assert store.read("inputs/a.png") == b"new" and (tmp_path / "a.png").read_bytes() == content
    assert not store.exists("inputs")
    store.check()
    assert [name for name, _ in store.list("inputs")] == ["inputs/a.png"] and list(store.list("check")) == []


def test_what_is_not_there(store: Any, tmp_path: Path) -> None:
    store.remove("outputs/none.png")
    assert not store.exists("outputs/none.png") and list(store.list("outputs")) == []
    with pytest.raises(FileNotFoundError):
        store.read("outputs/none.png")
    with pytest.raises(FileNotFoundError):
        store.get("outputs/none.png", tmp_path / "none.png")
    assert list(tmp_path.glob("*none*")) == [] and list(tmp_path.glob(".partial*")) == []


def test_a_removed_file_is_gone_for_others_at_once(store: Any) -> None:
    store.write("outputs/a.png", b"x")
    assert [name for name, _ in store.list("outputs")] == ["outputs/a.png"]
    store.remove("outputs/a.png")
    assert not store.exists("outputs/a.png") and list(store.list("outputs")) == []


def test_a_sweep_takes_what_is_old_and_unused(store: Any) -> None:
    for name in ("old", "used"):
        store.write(f"inputs/{name}.png", b"x")
    store.write("outputs/old.png", b"x")
    time.sleep(1.1)  # S3 knows whole seconds
    middle = time.time()
    time.sleep(1.1)
    store.write("inputs/new.png", b"x")
    ages = dict(store.list("inputs"))
    assert middle < ages["inputs/new.png"] <= time.time() + 1 and ages["inputs/old.png"] < ages["inputs/new.png"]
    store.sweep("inputs", {"inputs/used.png"}, middle)
    assert sorted(name for name, _ in store.list("inputs")) == ["inputs/new.png", "inputs/used.png"]
    assert store.exists("outputs/old.png")


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../b", "", "a//b", ".a", "a\x00b", "a/", "a b", "s3://x/y"])
def test_names_stay_inside(store: Any, name: str) -> None:
    for step in (store.read, store.remove, store.exists, lambda name: store.write(name, b"x")):
        with pytest.raises(ValueError, match="is no name"):
            step(name)


def test_a_reader_never_sees_half_a_file(store: Any) -> None:
    versions = [bytes([index]) * 200_000 for index in range(4)]
    store.write("inputs/a.png", versions[0])
    stop, seen = threading.Event(), list[bytes]()

    def read() -> None:
        while not stop.is_set():
            seen.append(store.read("inputs/a.png"))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: seen)
    for version in versions * 3:
        store.write("inputs/a.png", version)
    stop.set()
    reader.join()
    assert seen and all(content in versions for content in seen)


def test_other_places_are_refused() -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix is needed"):
        files.PoolFiles("ftp://somewhere/x")


def test_a_store_that_is_away_is_an_os_error_and_soon(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    away = files.PoolFiles("s3://bucket/x", **{**s3.options, "endpoint_url": "http://127.0.0.1:9"})
    wrong = files.PoolFiles("s3://no-such-bucket/x", **s3.options)
    began = time.monotonic()
    for store in (away, wrong):
        for step in (store.check, lambda store=store: store.write("a", b"x")):
            with pytest.raises(OSError) as refused:
                step()
            assert "127.0.0.1" not in str(refused.value)
    assert time.monotonic() - began < 120  # and not for ever


def test_the_environment_says_where_s3_is(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the pool's programs have it: keys are in no address."""
    for name, value in (("ENDPOINT_URL", s3.url), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    store = files.PoolFiles(f"s3://{s3.bucket()}/x")
    store.check()
    store.write("inputs/a.png", b"x")
    assert store.read("inputs/a.png") == b"x" and store.local("inputs/a.png") is None


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = files.PoolFiles(str(tmp_path / "files"))
    store.write("inputs/a.png", b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        store.write("inputs/a.png", b"new")
    assert [path.name for path in (tmp_path / "files" / "inputs").iterdir()] == ["a.png"]
    assert store.read("inputs/a.png") == b"old" and store.local("inputs/a.png") == tmp_path / "files/inputs/a.png"
