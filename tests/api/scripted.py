"""A backend that does as a test says, in the place of ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from caller import load

backends, errors = load("backend"), load("errors")


class Scripted:
    """A backend whose states are what a test says. `poll` raises what is in `trouble`."""

    outlives_server = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.states, self.trouble = folder, dict[str, Any](), list[Exception]()
        self.refused, self.stuck = set[str](), set[str]()
        self.deaf = 0  # how many interrupts of a running job are lost
        self.polls, self.dropped = 0, list[str]()
        self.stir: Callable[[], None] = lambda: None

    @property
    def scratch(self) -> Path:
        return self.folder

    def listen(self, stir: Callable[[], None], progress: Any) -> None:
        self.stir = stir

    async def check(self, job: Any) -> None:
        if job.id in self.refused:
            raise errors.ApiError(503, "No model.")

    async def submit(self, job: Any, checked: None) -> None:
        self.states[job.id] = backends.QUEUED

    async def cancel(self, job: Any) -> bool:
        if self.states.get(job.id) == backends.RUNNING and self.deaf:
            self.deaf -= 1
            return False
        return self.states.pop(job.id, None) == backends.QUEUED

    async def poll(self, ids: Any) -> dict[str, Any]:
        self.polls += 1
        if self.trouble:
            raise self.trouble[0]
        return {id: self.states[id] for id in ids if id in self.states}

    async def drop_input(self, name: str) -> None:
        if self.stuck:
            raise OSError("read-only")
        self.dropped.append(name)

    async def clear(self, job: Any) -> None:
        if job.id in self.stuck:
            raise OSError("read-only")

    async def remove_output(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    async def sweep(self, used: Any, before: float) -> None:
        pass
