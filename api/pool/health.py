"""How the pool is: the parts that a gateway needs, and the hosts, as they were a moment ago."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ApiError
from .hosts import READY, HostReport
from .run import Depth
from .runs import Runs

LOOK_SECONDS = 2.0
BROKER_SECONDS = 3
GOOD = "ok"
STORE, FILES, BROKER = "store", "files", "broker"

if TYPE_CHECKING:
    from celery import Celery

    from .backend import PoolBackend

Check = Callable[[], None]


@dataclass(frozen=True)
class Look:
    """Attributes: `parts` say "ok" or, in one sentence, what is wrong."""

    parts: dict[str, str]
    hosts: list[HostReport] = field(default_factory=list)
    depths: list[Depth] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Whether requests can be taken. Without the broker they can: jobs lie in the store until it is back."""
        return self.parts[STORE] == GOOD and self.parts[FILES] == GOOD

    @property
    def status(self) -> str:
        if not self.is_ready:
            return "down"
        well = all(said == GOOD for said in self.parts.values()) and self.hosts
        return GOOD if well and all(host.state == READY for host in self.hosts) else "degraded"

    def to_json(self) -> dict[str, Any]:
        told = ("name", "state", "problem", "job", "warm", "memory_gb")
        hosts = [{name: getattr(host, name) for name in told} for host in self.hosts]
        jobs = [
            {"queue": item.queue, "state": item.state, "count": item.count, "oldest": item.oldest}
            for item in self.depths
        ]
        return {"status": self.status, "parts": self.parts, "hosts": hosts, "jobs": jobs}


class Health:
    """Looks at most every LOOK_SECONDS, however often it is asked.

    Args:
        runs, reports: the runs, and what workers say of themselves; StoreError while there is no store.
        files, broker: raise an Exception where these do not work.
    """

    def __init__(
        self,
        runs: Callable[[], Runs],
        reports: Callable[[], list[HostReport]],
        files: Check,
        broker: Check,
    ) -> None:
        self.runs, self.reports, self.checks = runs, reports, {FILES: files, BROKER: broker}
        self.last, self.at, self.lock = Look({}), -1e9, asyncio.Lock()

    async def look(self) -> Look:
        async with self.lock:
            if time.monotonic() - self.at > LOOK_SECONDS:
                self.last, self.at = await self._look(), time.monotonic()
            return self.last

    async def _look(self) -> Look:
        said = await asyncio.gather(*(asyncio.to_thread(_ask, check) for check in self.checks.values()))
        parts = dict(zip(self.checks, said, strict=True))
        try:
            runs = self.runs()
            reports, depths = await asyncio.to_thread(self.reports), await asyncio.to_thread(runs.depths)
        except ApiError as error:
            return Look({STORE: error.message, **parts})
        return Look({STORE: GOOD, **parts}, reports, depths)


def _ask(check: Check) -> str:
    try:
        check()
    except OSError as error:
        return str(error.strerror or error) or type(error).__name__
    except Exception as error:
        return type(error).__name__
    return GOOD


def health_of(backend: PoolBackend) -> Health:
    """The health of a gateway's pool."""

    def runs() -> Runs:
        return Runs(backend.store.database, backend.pool.lease_seconds)

    def reports() -> list[HostReport]:
        assert backend.store
        return backend.hosts.reports()

    return Health(runs, reports, backend.files.check, lambda: ask_broker(backend.app))


def ask_broker(app: Celery) -> None:
    """Make a connection to the broker, and end it; raises an Exception where there is none to be had."""
    with app.connection_for_write(connect_timeout=BROKER_SECONDS) as connection:
        connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
