"""Orders and jobs: what is to be made, in the same words for every vendor, and what became of it."""

from __future__ import annotations

import json
import math
import time
import uuid
from dataclasses import asdict, dataclass, field, fields
from typing import Any

CREATED, PROCESSING, COMPLETED, FAILED, CANCELED = "created", "processing", "completed", "failed", "canceled"
DONE = (COMPLETED, FAILED, CANCELED)
UNREADABLE = "This job was written by another version and cannot be read."


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
class Once:
    """A request that is to be taken once, however often it comes: hashes of its caller and name, and of its body."""

    key: str
    digest: str


class Repeated(Exception):
    """There is a job of this key already."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.id)
        self.job = job


@dataclass(frozen=True)
class Job:
    """One request and what became of it. Times are seconds since 1970.

    Attributes:
        request: the vendor's input, as it is given back to the caller.
        outputs: saved files, as paths in ComfyUI's output folder.
        flags: the safety check's verdict for each picture made; empty without a check.
        attempts: how many servers began to run it and did not end on purpose.
        step, steps: sampling steps done and to do. Not kept over a restart.
        owner: whose it is, as auth.py names callers.
        options: what the request asked for beside its input, as the vendor's module wrote it down; and `cancel_after`,
            seconds from its creation after which it is canceled, for every vendor.
        key, digest: of the request that it was made by, where the caller wants that taken once; see Once.
        link: what its pictures' links carry in the place of `id`, so that a link opens the pictures and nothing else.
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
    owner: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    digest: str = ""
    link: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def done(self) -> bool:
        return self.status in DONE

    @property
    def overdue(self) -> bool:
        """Whether it is to be canceled by now."""
        return time.time() > self.created + (self.options.get("cancel_after") or math.inf)

    @property
    def inference_seconds(self) -> float:
        return max(0.0, (self.finished or 0.0) - self.started) if self.started and self.finished else 0.0


def job_to_json(job: Job) -> str:
    return json.dumps(asdict(job))


def job_from_json(id: str, vendor: str, created: float, content: str) -> Job:
    """A job as it was written. One that cannot be understood is failed and says so; its files stay known."""
    try:
        values = json.loads(content)
        values["order"] = Order(**values["order"])
        values["outputs"], values["flags"] = tuple(values["outputs"]), tuple(values["flags"])
        unknown = set(values) - {item.name for item in fields(Job)}
        if not unknown and values["status"] in (CREATED, PROCESSING, *DONE):
            return Job(**values)
    except (ValueError, TypeError, KeyError):
        values = {}
    raw = _loose(content)
    outputs = raw.get("outputs") or []
    return Job(
        id,
        vendor,
        Order("", 16, 16, 1, 1, 1.0, 0),
        raw["request"] if isinstance(raw.get("request"), dict) else {},
        created=created,
        status=FAILED,
        finished=time.time(),
        outputs=tuple(name for name in outputs if isinstance(name, str)) if isinstance(outputs, list) else (),
        error=UNREADABLE,
    )


def _loose(content: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
