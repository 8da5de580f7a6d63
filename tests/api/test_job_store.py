"""The job store: damaged, newer, unwritable and foreign files, rows of other versions, a full disk, two servers."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from caller import ROOT, load

stores, jobs = load("job_store"), load("jobs")
ORDER = jobs.Order("x.png", 16, 16, 1, 1, 1.0, 1)


def job(index: int, **more: Any) -> Any:
    return jobs.Job(f"{index:032x}", "wavespeed", ORDER, {}, **more)


def filled(path: Path, count: int = 3) -> Path:
    store = stores.JobStore(path)
    for index in range(count):
        store.put(job(index))
    store.close()
    return path


def damage(path: Path) -> None:
    content = bytearray(filled(path, 200).read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)


def change(statement: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with sqlite3.connect(filled(path)) as database:
            database.execute(statement)
        database.close()

    return run


SPOILT: dict[str, Callable[[Path], Any]] = {
    "noise": lambda path: path.write_bytes(os.urandom(5000)),
    "damaged": damage,
    "truncated": lambda path: os.truncate(filled(path, 200), 9000),
    "newer": change(f"PRAGMA user_version = {stores.VERSION + 1}"),
    "foreign": change("ALTER TABLE jobs RENAME COLUMN content TO something"),
    "a folder": lambda path: (path / "inside").mkdir(parents=True),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_file_is_moved_aside(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jobs.sqlite"
    SPOILT[kind](path)
    before, months = path.read_bytes() if path.is_file() else None, {time.strftime("%Y-%m-")}
    store = stores.JobStore(path)
    store.put(job(7))
    store.close()
    (aside,) = [found for found in tmp_path.glob("jobs.sqlite.2*") if not found.name.endswith(("-wal", "-shm"))]
    months.add(time.strftime("%Y-%m-"))  # it may be another one by now
    assert aside.name.startswith(tuple(f"jobs.sqlite.{month}" for month in months))
    assert before is None or aside.read_bytes() == before  # nothing is lost
    (line,) = [record.message for record in caplog.records]
    assert str(aside) in line and "a new one is begun" in line
    assert set(stores.JobStore(path).live) == {f"{7:032x}"}


AS_NOBODY = """
import os, sys
sys.path.insert(0, {tests!r})
from caller import load
stores = load("job_store"); load("jobs")
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    store = stores.JobStore(stores.Path({path!r}))
    store.put(load("jobs").Job("0" * 32, "wavespeed", load("jobs").Order("x", 16, 16, 1, 1, 1.0, 1), {{}}))
    print("open")
except stores.StoreError as error:
    print(error.status, error)
"""


def as_ordinary_user(path: Path) -> str:
    """What a user without special rights meets, whoever runs the tests."""
    code = AS_NOBODY.format(tests=str(Path(__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody may enter: pytest's own are their owner's alone, and each pytest that starts sees to that."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_an_unwritable_file_is_moved_aside_and_an_unwritable_folder_is_said(open_folder: Path) -> None:
    folder = open_folder / "user"
    folder.mkdir()
    path = filled(folder / "jobs.sqlite")
    for part in folder.iterdir():
        part.chmod(0o444)
    folder.chmod(0o777)
    assert as_ordinary_user(path) == "open"
    assert len(list(folder.glob("jobs.sqlite.2*"))) >= 1
    other = open_folder / "other"
    other.mkdir()
    other.chmod(0o555)
    answer = as_ordinary_user(other / "jobs.sqlite")
    assert answer.startswith("503") and "try again later" in answer
    other.chmod(0o755)


def test_a_row_of_another_version_fails_alone(tmp_path: Path) -> None:
    path = filled(tmp_path / "jobs.sqlite", 5)
    good = jobs.job_to_json(job(9))
    rows = ["{", "[]", "null", json.dumps({**json.loads(good), "mood": 1})]
    rows.append(json.dumps({**json.loads(good), "order": {"reference": "x", "colour": 5}, "outputs": ["a/b.png"]}))
    with sqlite3.connect(path) as database:
        for index, content in enumerate(rows[:4]):
            database.execute("UPDATE jobs SET content = ? WHERE id = ?", (content, f"{index:032x}"))
        database.execute(
            "INSERT INTO jobs (id, vendor, status, created, content) VALUES ('z', 'v', 'x', 1, ?)", rows[4:]
        )
    database.close()
    store = stores.JobStore(path)
    assert set(store.live) == {f"{4:032x}"}
    for id in [f"{index:032x}" for index in range(4)] + ["z"]:
        found = store.get(id)
        assert found.status == "failed" and "another version" in found.error and found.finished
    assert store.get("z").outputs == ("a/b.png",)  # so that they are removed in time


def test_files_of_before_have_links_and_keep_their_jobs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    values = json.loads(jobs.job_to_json(job(1)))
    for name in ("link", "owner", "options"):
        del values[name]
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, vendor TEXT NOT NULL, status TEXT NOT NULL, "
            "created REAL NOT NULL, finished REAL, content TEXT NOT NULL)"
        )
        row = (values["id"], "wavespeed", "created", 1.0, json.dumps(values))
        database.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, NULL, ?)", row)
    database.close()
    store = stores.JobStore(path)
    (found,) = store.live.values()
    assert len(found.link) == 32 and found.link != found.id and store.by_link(found.link) == found


def test_one_server_a_store(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    store = stores.JobStore(path)
    with pytest.raises(stores.StoreError, match="another server uses jobs.sqlite"):
        stores.JobStore(path)
    store.close()
    stores.JobStore(path).close()


def test_a_killed_servers_lock_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom caller import load\n"
    code += f"s = load('job_store'); s.JobStore(s.Path({str(path)!r})); print('open', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"open\n"
    with pytest.raises(stores.StoreError):
        stores.JobStore(path)
    child.kill()
    child.wait()
    stores.JobStore(path).close()


def test_a_full_disk_is_a_refusal_and_passes(tmp_path: Path) -> None:
    store = stores.JobStore(tmp_path / "jobs.sqlite")
    kept = store.put(job(0))
    limit_pages(store)
    with pytest.raises(stores.StoreError, match="full") as refused:
        for index in range(1, 500):
            store.put(job(index))
    assert refused.value.status == 503
    count = len(store.live)
    with pytest.raises(stores.StoreError):
        store.put(job(999, error="x" * 100_000))
    assert len(store.live) == count and store.get(kept.id) == kept
    store.database.execute("PRAGMA max_page_count = 100000")
    store.put(job(999))
    assert len(store.live) == count + 1


def limit_pages(store: Any) -> None:
    """The database may not grow: SQLite's own "database or disk is full"."""
    (pages,) = store.database.execute("PRAGMA page_count").fetchone()
    store.database.execute(f"PRAGMA max_page_count = {pages}")
