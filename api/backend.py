"""What makes the pictures, as the runner sees it: a small interface, so that one machine is one case of several.

`local.py` is ComfyUI's own queue in this process, `pool/backend.py` any number of ComfyUIs behind a broker. The runner
holds the jobs; a backend holds nothing that it could not be asked again: its state is polled, and what it says about
itself is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .jobs import Job

QUEUED, RUNNING = "queued", "running"


@dataclass(frozen=True)
class Finished:
    """The end of a job on the host.

    Attributes:
        outputs: names of the pictures, for `output` and `remove_output`.
        flags: the safety check's verdict for each picture made; empty without a check.
        error: why there are no pictures; "" where there are.
        canceled: whether it was interrupted.
        started: when the host began it, in seconds since 1970, where it knows.
    """

    outputs: tuple[str, ...] = ()
    flags: tuple[bool, ...] = ()
    error: str = ""
    canceled: bool = False
    started: float | None = None


State = str | Finished
"""QUEUED, RUNNING or Finished. A job that a backend does not know has no state."""


class Backend(Protocol):
    """Jobs go in by `check` and `submit`, are looked at with `poll`, and come out as files.

    `listen` is called once, before anything else, with `stir`, to be called whenever something may have changed, and
    `progress(id, step, steps)`. Both are hints: nothing may depend on their being called.

    Attributes:
        outlives_server: whether what runs goes on when this server ends.
    """

    outlives_server: bool

    def listen(self, stir: Callable[[], None], progress: Callable[[str, int, int], None]) -> None: ...

    async def check(self, job: Job) -> Any:
        """What `submit` needs beside the job.

        Raises:
            ApiError: 503, the host cannot run it, because a model file is not there for instance.
        """

    async def submit(self, job: Job, checked: Any) -> None:
        """Queue a job behind all others."""

    async def cancel(self, job: Job) -> bool:
        """Take a job out of the queue (True), or interrupt it where it runs already (False)."""

    async def poll(self, ids: Collection[str]) -> dict[str, State]:
        """The states of those jobs that the backend knows."""

    async def keep_input(self, path: Path, digest: str) -> str:
        """Take over a PNG file from `scratch`; the name for an order. Equal pictures share one file."""

    async def drop_input(self, name: str) -> None: ...

    async def output(self, name: str) -> Path | None:
        """A picture as a file on this machine; None where it is no longer there."""

    async def remove_output(self, name: str) -> None:
        """Remove a picture; that it is gone already is no error."""

    async def clear(self, job: Job) -> None:
        """Remove what an earlier attempt has left."""

    async def sweep(self, used: Collection[str], before: float) -> None:
        """Remove inputs older than `before` that are not `used`: what a killed server has left."""

    @property
    def scratch(self) -> Path:
        """A folder for inputs that are being made."""
