"""Jobs, kept in a small database in ComfyUI's user folder, so that a restart of the server loses none."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

CREATED, PROCESSING, COMPLETED, FAILED, CANCELED = "created", "processing", "completed", "failed", "canceled"
DONE = (COMPLETED, FAILED, CANCELED)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, vendor TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, finished REAL,
    content TEXT NOT NULL
)
"""


@dataclass(frozen=True)
class Order:
    """What is to be made, in the same words for every vendor. `reference` is a file in ComfyUI's input folder."""

    reference: str
    width: int
    height: int
    count: int
    steps: int
    guidance: float
    seed: int
    prompt: str = ""
    strength: float = 1.0
    format: str = "webp"
    quality: int = 80
    safety: str = ""
    """"" for no safety check, or what happens to a flagged picture: "blank" or "block"."""


@dataclass(frozen=True)
class Job:
    """One request and what became of it. Times are seconds since 1970.

    Attributes:
        request: the vendor's input, as it is given back to the caller.
        outputs: saved files, as paths in ComfyUI's output folder.
        flags: the safety check's verdict for each picture made; empty without a check.
        attempts: how often it was put into the queue; a restart of the server does it again.
        step, steps: sampling steps done and to do. Not kept over a restart.
    """

    id: str
    vendor: str
    order: Order
    request: dict[str, Any]
    created: float = field(default_factory=time.time)
    status: str = CREATED
    started: float | None = None
    finished: float | None = None
    outputs: tuple[str, ...] = ()
    flags: tuple[bool, ...] = ()
    error: str = ""
    attempts: int = 0
    step: int = 0
    steps: int = 0

    @property
    def done(self) -> bool:
        return self.status in DONE

    @property
    def inference_seconds(self) -> float:
        return max(0.0, (self.finished or 0.0) - self.started) if self.started and self.finished else 0.0


class JobStore:
    """Jobs by id. What is not done is in memory too; the database is written at each change of status."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=NORMAL")
        self.database.execute(_SCHEMA)
        rows = self.database.execute("SELECT content FROM jobs WHERE finished IS NULL ORDER BY created")
        self.live = {job.id: job for job in map(_from_row, rows)}

    def close(self) -> None:
        self.database.close()

    def get(self, id: str) -> Job | None:
        if id in self.live:
            return self.live[id]
        row = self.database.execute("SELECT content FROM jobs WHERE id = ?", (id,)).fetchone()
        return _from_row(row) if row else None

    def put(self, job: Job) -> Job:
        content = json.dumps(asdict(job))
        self.database.execute(
            "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?)",
            (job.id, job.vendor, job.status, job.created, job.finished, content),
        )
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

    def pop_old(self, before: float) -> Iterator[Job]:
        """Remove the jobs that were done before a time, and give them."""
        for row in self.database.execute("SELECT content FROM jobs WHERE finished < ?", (before,)).fetchall():
            job = _from_row(row)
            self.database.execute("DELETE FROM jobs WHERE id = ?", (job.id,))
            yield job


def _from_row(row: tuple[str]) -> Job:
    values = json.loads(row[0])
    values["order"] = Order(**values["order"])
    values["outputs"], values["flags"] = tuple(values["outputs"]), tuple(values["flags"])
    return Job(**{item.name: values[item.name] for item in fields(Job)})
