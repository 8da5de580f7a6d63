"""What keeps the jobs, as the runner and the endpoints see it: job_store.py for one server, pool/store.py for many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from .jobs import Job


class Store(Protocol):
    """What keeps the jobs, as the runner and the endpoints see it; `live` are those that are not done."""

    @property
    def live(self) -> Mapping[str, Job]: ...

    def close(self) -> None: ...

    def get(self, id: str) -> Job | None: ...

    def by_link(self, link: str) -> Job | None: ...

    def by_key(self, key: str) -> Job | None: ...

    def recent(
        self, vendor: str, owner: str, beside: tuple[float, str] | None = None, newer: bool = False
    ) -> Iterator[Job]: ...

    def put(self, job: Job) -> Job:
        """Write a job; raises jobs.Repeated where there is another one of its key."""

    def update(self, job: Job, **changes: Any) -> Job: ...

    def note_progress(self, id: str, step: int, steps: int) -> None: ...

    def old(self, before: float) -> list[Job]: ...

    def remove(self, id: str) -> None: ...
