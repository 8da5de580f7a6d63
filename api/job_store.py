"""The jobs in a small database in ComfyUI's user folder, so that a restart of the server loses none.

Every error of SQLite leaves this file as a StoreError, which callers see as 503 and background tasks try again.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import ApiError
from .file_lock import FileLock
from .jobs import UNREADABLE, Job, Repeated, job_from_json, job_to_json

VERSION = 1
_COLUMNS = "id, vendor, status, created, finished, content, link, key"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, vendor TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, finished REAL,
    content TEXT NOT NULL, link TEXT, key TEXT
)
"""
# What SQLite says when the file may be whole and only the moment is bad.
_MOMENTARY = ("is full", "is locked", "disk I/O", "out of memory", "interrupted")

log = logging.getLogger(__name__)


class StoreError(ApiError):
    """The store cannot be read or written now. Of another StoreError as `reason` the reason alone is told again."""

    def __init__(self, reason: object) -> None:
        self.reason: str = reason.reason if isinstance(reason, StoreError) else str(reason).rstrip(".")
        super().__init__(503, f"This server's job store cannot be used now ({self.reason}); try again later.")


class Spoilt(Exception):
    """A file that is no job store of this version."""


class JobStore:
    """Jobs by id. What is not done is in memory too; the database is written, at each change of status, before it.

    Args:
        path: of the database. A file that is damaged, of a newer version or not to be written is moved aside.

    Raises:
        StoreError: another server uses the file, or nothing can be written here now.
    """

    live: dict[str, Job]

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(path.with_name(f"{path.name}.lock"))
        except BlockingIOError:
            raise StoreError(f"another server uses {path.name}") from None
        except OSError as error:
            raise StoreError(error) from error
        try:
            self.database = _open(path)
            self.live = {}
            self._load()
        except BaseException:
            self.lock.release()
            raise

    def close(self) -> None:
        self.database.close()
        self.lock.release()

    def get(self, id: str) -> Job | None:
        return self.live.get(id) or self._one("id", id)

    def by_link(self, link: str) -> Job | None:
        return self._one("link", link)

    def by_key(self, key: str) -> Job | None:
        """The job of a request that was to be taken once."""
        found = self._one("key", key)
        return found and self.live.get(found.id, found)

    def recent(
        self, vendor: str, owner: str, beside: tuple[float, str] | None = None, newer: bool = False
    ) -> Iterator[Job]:
        """A caller's jobs, the newest first.

        Args:
            beside: time of making and id of a job; only those that are older are given.
            newer: those that are newer instead, the oldest first.
        """
        sign, end = (">", (0.0, "")) if newer else ("<", (math.inf, ""))
        jobs = self._jobs(f"vendor = ? AND (created, id) {sign} (?, ?)", (vendor, *(beside or end)))
        for job in jobs if newer else reversed(jobs):
            if job.owner == owner:
                yield self.live.get(job.id, job)

    def put(self, job: Job) -> Job:
        """Write a job.

        Raises:
            Repeated: it is new, and there is another one of its key.
        """
        if job.key and job.id not in self.live and (other := self.by_key(job.key)) and other.id != job.id:
            raise Repeated(other)
        times, key = (job.created, job.finished), job.key or None
        values = (job.id, job.vendor, job.status, *times, job_to_json(job), job.link, key)
        self._run(f"INSERT OR REPLACE INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        if job.done:
            self.live.pop(job.id, None)
        else:
            self.live[job.id] = job
        return job

    def update(self, job: Job, **changes: Any) -> Job:
        """The job with some of its fields changed. What is done stays done."""
        current = self.get(job.id) or job
        return current if current.done else self.put(replace(current, **changes))

    def note_progress(self, id: str, step: int, steps: int) -> None:
        """Steps are for callers who look while it runs; they are not worth a write each."""
        if id in self.live:
            self.live[id] = replace(self.live[id], step=step, steps=steps)

    def old(self, before: float) -> list[Job]:
        """The jobs that were done before a time."""
        return self._jobs("finished < ?", (before,))

    def remove(self, id: str) -> None:
        self._run("DELETE FROM jobs WHERE id = ?", (id,))
        self.live.pop(id, None)

    def _one(self, column: str, value: str) -> Job | None:
        return next(iter(self._jobs(f"{column} = ?", (value,))), None)

    def _jobs(self, condition: str, values: Sequence[Any] = ()) -> list[Job]:
        rows = self._run(f"SELECT {_COLUMNS} FROM jobs WHERE {condition} ORDER BY created, id", values)
        return [_from_row(row) for row in rows]

    def _load(self) -> None:
        for job in self._jobs("finished IS NULL"):
            if job.error == UNREADABLE:
                log.error("Redux API: job %s is failed. %s", job.id, UNREADABLE)
                self._run("UPDATE jobs SET status = ?, finished = ? WHERE id = ?", (job.status, job.finished, job.id))
            else:
                self.live[job.id] = job

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self.database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(error) from error


def _open(path: Path) -> sqlite3.Connection:
    """The database, checked; one that is spoilt is moved aside, and a new one takes its place."""
    try:
        try:
            return _connect(path)
        except (sqlite3.Error, Spoilt) as error:
            if not _is_spoilt(path, error):
                raise StoreError(error) from error
            aside = _move_aside(path)
            log.error("Redux API: %s cannot be used (%s); it is now %s, and a new one is begun.", path, error, aside)
            return _connect(path)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(error) from error


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise Spoilt(f"version {version} is newer than {VERSION}")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise Spoilt(verdict)
        write_ahead(database, 1.0)
        database.execute("BEGIN IMMEDIATE")
        database.execute(_SCHEMA)
        known = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
        if "key" not in known:
            database.execute("ALTER TABLE jobs ADD COLUMN key TEXT")
        if "link" not in known:
            database.execute("ALTER TABLE jobs ADD COLUMN link TEXT")
            database.execute("UPDATE jobs SET link = lower(hex(randomblob(16)))")
        database.execute("CREATE INDEX IF NOT EXISTS jobs_by_link ON jobs (link)")
        database.execute("CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (key)")
        database.execute(f"SELECT {_COLUMNS} FROM jobs LIMIT 1")
        database.execute(f"PRAGMA user_version = {VERSION}")  # a write: an unwritable file is found out here
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def write_ahead(database: sqlite3.Connection, seconds: float) -> None:
    """Let readers and one writer work at once. Of two connections that switch a new file over, SQLite refuses one at
    once, without the wait that it keeps for other locks: that one asks again, for so many seconds.

    Raises:
        sqlite3.OperationalError: the file stays locked, or cannot be written.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            database.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    database.execute("PRAGMA synchronous=NORMAL")


def _is_spoilt(path: Path, error: Exception) -> bool:
    """Whether the file itself is at fault, and not a full disk, a locked file or too many open ones."""
    text = str(error)
    if isinstance(error, Spoilt):
        return True
    if "unable to open" in text:
        return path.exists() and (not path.is_file() or not os.access(path, os.R_OK | os.W_OK))
    return not any(part in text for part in _MOMENTARY)


def _move_aside(path: Path) -> Path:
    date, number = time.strftime("%Y-%m-%dT%H-%M-%S"), 0
    while (aside := path.with_name(f"{path.name}.{date}" + (f"-{number}" if number else ""))).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):  # the file itself last: what is half moved is found again at the next start
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _from_row(row: Sequence[Any]) -> Job:
    id, vendor, _, created, finished, content, link, _ = row
    job = job_from_json(id, vendor, created, content)
    return replace(job, link=link or job.link, finished=finished or job.finished)
