"""What hosts there are and what they can do; which queues there are and what they ask of a host.

A queue stands for one capability: the models that a gateway's settings name, and the memory they need. A worker takes
from the queues that its host can serve, and from those whose models the host has loaded first.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from ..settings import Models, Settings
from .database import Database, hosts, tables

SEEN_SECONDS = 10.0
"""A worker that has not been heard of for so long is away."""
KNOWN_SECONDS = 600.0
"""What a host had counts for so long after it was last seen: a new start is no reason to refuse jobs."""
FORGET_SECONDS = 24 * 3600.0
READY, AWAY, LEAVING = "ready", "host away", "leaving"

queues = sa.Table(
    "redux_queues",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("content", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class Capability:
    """What a gateway's jobs need, beside the job itself, to become a prompt on a host."""

    models: Models
    memory_gb: float = 0.0
    safety_threshold: float = 0.8
    embed_workflow: bool = False

    @property
    def queue(self) -> str:
        """The queue's name; equal needs share one."""
        return f"redux.{hashlib.sha256(self.to_json().encode()).hexdigest()[:16]}"

    @property
    def files(self) -> dict[str, str]:
        """The model files that a host must list: folder/name by what they are."""
        models = self.models
        texts = {"clip_l": models.clip_l, "t5xxl": models.t5xxl}
        if not all(texts.values()):
            texts = {"words": models.words}
        found = {f"text encoder {name}": f"text_encoders/{value}" for name, value in texts.items()}
        found |= {"diffusion model": f"diffusion_models/{models.diffusion_model}", "VAE": f"vae/{models.vae}"}
        found |= {"vision model": f"clip_vision/{models.clip_vision}"}
        return {**found, "style model": f"style_models/{models.style_model}"}

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Capability:
        values = json.loads(text)
        return Capability(**{**values, "models": Models(**values["models"])})

    @staticmethod
    def of(settings: Settings, memory_gb: float) -> Capability:
        return Capability(settings.models, memory_gb, settings.safety_threshold, settings.embed_workflow)


@dataclass(frozen=True)
class HostReport:
    """One worker and its host, as the worker tells; see `Hosts`.

    Attributes:
        name: of the worker.
        state: READY, AWAY (the host does not answer; the worker takes nothing) or LEAVING.
        files: the models that the host lists, as folder/name.
        memory_gb: of the device that it computes on.
        warm: the queue whose models it has loaded.
        job: what it runs now.
        seen: seconds since 1970, by the database's clock.
    """

    name: str
    state: str = AWAY
    files: tuple[str, ...] = ()
    memory_gb: float = 0.0
    warm: str = ""
    job: str = ""
    problem: str = ""
    seen: float = field(default=0.0, compare=False)

    def serves(self, capability: Capability) -> bool:
        return not self.lacks(capability) and self.memory_gb >= capability.memory_gb

    def lacks(self, capability: Capability) -> list[str]:
        """The files of a capability that this host does not have."""
        have = set(self.files)
        return [file for file in capability.files.values() if file not in have]


class Hosts:
    """The table of workers and that of queues.

    Raises:
        StoreError: from each method, while the database does not answer.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.errors():
            queues.create(database.engine, checkfirst=True)

    def report(self, report: HostReport) -> None:
        """What a worker says about itself and its host, now."""
        values = asdict(report)
        name = values.pop("name")
        values.pop("seen")
        row = {"seen": self.database.now, "content": json.dumps(values)}
        statement = self.database.insert(hosts).values(name=name, **row)
        self.database.count(statement.on_conflict_do_update(index_elements=["name"], set_=row))

    def reports(self) -> list[HostReport]:
        """All workers of the last day, by name; one that fell silent is AWAY."""
        rows = self.database.run(
            sa.select(hosts.c.name, hosts.c.content, hosts.c.seen, self.database.now.label("now")).order_by(
                hosts.c.name
            )
        )
        return [_read(row) for row in rows if row.now - row.seen < FORGET_SECONDS]

    def register(self, capability: Capability) -> None:
        """Let workers know of a queue, for ever: messages may lie in it."""
        row = {"name": capability.queue, "content": capability.to_json()}
        self.database.count(self.database.insert(queues).values(**row).on_conflict_do_nothing())

    def capabilities(self) -> dict[str, Capability]:
        """What each queue asks of a host. One that another version has written is left out."""
        found = {}
        for name, content in self.database.run(sa.select(queues.c.name, queues.c.content)):
            try:
                found[name] = Capability.from_json(content)
            except (ValueError, TypeError, KeyError):
                continue
        return found


def refusal(capability: Capability, reports: Sequence[HostReport], now: float | None = None) -> str:
    """Why no host of the pool can run a capability, in one sentence; "" where one can, or could a short while ago."""
    now = time.time() if now is None else now
    known = [report for report in reports if now - report.seen < KNOWN_SECONDS and report.files]
    if not known:
        return "no ComfyUI host of this pool has been seen; its workers are not started"
    if any(report.serves(capability) for report in known):
        return ""
    lacking = [file for file in capability.files.values() if all(file in report.lacks(capability) for report in known)]
    if lacking:
        return f"no host of this pool has {_named(lacking[0])}"
    if all(report.lacks(capability) for report in known):
        return "no host of this pool has all of its model files"
    return f"no host of this pool that has the models has {capability.memory_gb:g} GB of memory"


def _named(file: str) -> str:
    folder, _, name = file.partition("/")
    return f"{name} in models/{folder}"


def _read(row: Any) -> HostReport:
    values = json.loads(row.content)
    values["files"] = tuple(values["files"])
    report = HostReport(row.name, **values, seen=row.seen)
    if row.now - row.seen > SEEN_SECONDS and report.state != LEAVING:
        return HostReport(**{**asdict(report), "state": AWAY, "problem": "its worker is silent", "job": ""})
    return report
