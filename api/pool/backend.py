"""The backend of a pool: jobs go out as messages, and the job store says what became of them.

The store is the truth and the broker carries it: a job is in the store, with its run, before its message is published,
and whatever loses a message, a gateway that is killed in between or a broker whose disk is gone, it is published again.
What has become of jobs is asked when there is word of it (news.py), and each second in case a word was lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..backend import QUEUED, RUNNING, State
from ..errors import ApiError
from ..jobs import Job
from ..settings import Settings
from ..supervise import Supervisor
from .app import BROKER_ERRORS, make_app, publish
from .files import PoolFiles
from .hosts import Capability, HostReport, Hosts, refusal
from .news import Listener, Teller
from .routing import AGED, owner_of, priority_of
from .run import Run
from .runs import Runs
from .settings import PoolSettings
from .store import PoolStore, StoreError

INPUTS, OUTPUTS = "inputs", "outputs"
STIR_SECONDS = 0.1
"""How soon a caller who waits hears of a job's end while the broker tells of none."""
LOOK_SECONDS = 1.0
"""How soon all jobs are looked at, however much there is word of some of them."""
REPAIR_SECONDS = 1.0
UNPUBLISHED_SECONDS = 3.0
AGAIN_SECONDS = 120.0
"""A job that waits so long is published once more, before all others: its message may be lost, or it was passed by."""
REPORTS_SECONDS = 1.0
CACHE_SECONDS = 3600.0

log = logging.getLogger(__name__)
T = TypeVar("T")


class PoolBackend:
    """See backend.Backend.

    Args:
        scratch: a folder of this machine, for pictures that are being decoded or fetched.
    """

    outlives_server = True

    def __init__(self, settings: Settings, pool: PoolSettings, scratch: Path) -> None:
        self.settings, self.pool, self._scratch = settings, pool, scratch
        self.files, self.app = PoolFiles(pool.files), make_app(pool, publishes_only=True)
        self.capability = Capability.of(settings, pool.memory_gb)
        self.opened: PoolStore | None = None
        self.supervisor = Supervisor()
        self.outbox: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()
        self.published: set[str] = set()
        self.publisher = ThreadPoolExecutor(1, "publisher")
        self.reports: tuple[float, list[HostReport]] = (0.0, [])
        self.teller = Teller(self.app)
        self.listener: Listener | None = None
        self.heard: set[str] = set()
        self.looked = -LOOK_SECONDS

    @property
    def scratch(self) -> Path:
        return self._scratch

    @property
    def store(self) -> PoolStore:
        """Raises StoreError while it is not open."""
        if self.opened is None:
            raise StoreError("it is not open yet")
        return self.opened

    def open_store(self) -> PoolStore:
        """For the runner. What this gateway's jobs need is made known to the workers."""
        store = PoolStore(self.pool.store, self.capability.queue)
        try:
            self.runs = Runs(store.database, self.pool.lease_seconds, self.teller.tell)
            self.hosts = Hosts(store.database)
            self.hosts.register(self.capability)
        except BaseException:
            store.close()
            raise
        self.opened = store
        return store

    def listen(self, stir: Callable[[], None], progress: Callable[[str, int, int], None]) -> None:
        self.progress, loop = progress, asyncio.get_running_loop()

        def note(id: str) -> None:
            self.heard.add(id)
            stir()

        def hear(id: str) -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(note, id)

        async def look() -> None:
            if self.opened and self.opened.known and not listener.listens:
                self.heard.add("")
                stir()

        listener = self.listener = Listener(self.app, hear)
        listener.start()

        self.scratch.mkdir(parents=True, exist_ok=True)
        self.supervisor.repeat("looking at the jobs", look, STIR_SECONDS)
        self.supervisor.repeat("the broker", self._publish)
        self.supervisor.repeat("lost messages", self._repair, REPAIR_SECONDS)

    async def close(self) -> None:
        if self.listener:
            self.listener.stop()
        await self.supervisor.stop()
        self.publisher.shutdown(wait=False, cancel_futures=True)

    async def check(self, job: Job) -> str:
        reports = await self.known_hosts()
        problem = refusal(self.capability, reports)
        if problem:
            raise ApiError(503, f"This server cannot run the model: {problem}.")
        return self.capability.queue

    async def known_hosts(self) -> list[HostReport]:
        """The workers and their hosts, as of a moment ago."""
        at, reports = self.reports
        if time.monotonic() - at > REPORTS_SECONDS or not reports:
            self.store  # noqa: B018
            reports = await asyncio.to_thread(self.hosts.reports)
            self.reports = time.monotonic(), reports
        return reports

    async def submit(self, job: Job, checked: str) -> None:
        # It is in the store with its run, so nothing can be lost: the broker may take it now or when it is well again.
        self.outbox.put_nowait((job.id, checked, priority_of(job, self.store.live.values(), self.first_owners)))

    async def cancel(self, job: Job) -> bool:
        return await asyncio.to_thread(self.runs.cancel, job.id)

    async def poll(self, ids: Collection[str]) -> dict[str, State]:
        """What there is word of, and each second all; a job that is not asked for now is told as QUEUED."""
        heard, self.heard = self.heard, set()
        if not ids:
            return {}
        try:
            moved = await self._moved(heard, ids)
        except BaseException:
            self.heard |= heard
            raise
        for id, run in moved.items():
            if run.state == RUNNING and run.step:
                self.progress(id, run.step, run.steps)
        return {id: moved[id].state if id in moved else QUEUED for id in ids}

    async def _moved(self, heard: set[str], ids: Collection[str]) -> dict[str, Run]:
        if heard and "" not in heard and time.monotonic() - self.looked < LOOK_SECONDS:
            # Whoever has written the end of one by now, here is a caller who does not know it yet.
            return await asyncio.to_thread(self.runs.get, heard & set(ids))
        moved = await asyncio.to_thread(self.runs.moved)
        # What is not among them may wait, or another gateway has just written its end, and the word of it is here.
        self.store.refresh()
        self.looked = time.monotonic()
        return moved

    async def keep_input(self, path: Path, digest: str) -> str:
        # A name of its own for each: another gateway may be dropping an equal picture at this moment.
        name = f"{INPUTS}/{uuid.uuid4().hex}.png"
        await asyncio.to_thread(self.files.put, path, name)
        path.unlink(missing_ok=True)
        return name

    async def drop_input(self, name: str) -> None:
        await asyncio.to_thread(self.files.remove, name)

    async def output(self, name: str) -> Path | None:
        if (path := self.files.local(name)) is not None:
            return path if path.is_file() else None
        path = self.scratch / name.replace("/", "-")
        if not path.is_file():
            try:
                await asyncio.to_thread(self.files.get, name, path)
            except FileNotFoundError:
                return None
        return path

    async def remove_output(self, name: str) -> None:
        await asyncio.to_thread(self.files.remove, name)

    async def clear(self, job: Job) -> None:
        """Nothing: each attempt's pictures have names of their own, and those of a lost one are swept."""

    async def sweep(self, used: Collection[str], before: float) -> None:
        await asyncio.to_thread(self.files.sweep, INPUTS, used, before)
        kept = time.time() - 3600 * self.settings.keep_hours - CACHE_SECONDS
        await asyncio.to_thread(self.files.sweep, OUTPUTS, (), min(before, kept))
        for path in self.scratch.glob("*"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - CACHE_SECONDS:
                    path.unlink()

    @property
    def first_owners(self) -> frozenset[str]:
        """The callers whose jobs go before others', as auth.py names them."""
        return frozenset(owner_of(key) for key in self.pool.first_keys)

    async def _publish(self) -> None:
        """One message. What cannot be published now stays unpublished in the store, where `_repair` finds it."""
        id, queue, priority = await self.outbox.get()
        await self._blocking(partial(publish, self.app, self.pool, id, queue, priority))
        self.published.add(id)  # `_repair` writes that down, for all of a second at once

    async def _repair(self) -> None:
        """Publish again what needs a message, before all others: it has waited the longest."""
        if self.opened is None:
            return
        await self._note_published()
        for id, queue in await asyncio.to_thread(self.runs.unpublished, UNPUBLISHED_SECONDS, AGAIN_SECONDS):
            await self._blocking(partial(publish, self.app, self.pool, id, queue, AGED))
            self.published.add(id)
        await self._note_published()

    async def _note_published(self) -> None:
        if noted := frozenset(self.published):
            await asyncio.to_thread(self.runs.note_published, noted)
            self.published -= noted

    async def _blocking(self, call: Callable[[], T]) -> T:
        """In the publisher's thread, which waits for the broker so that nothing else has to."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.publisher, call)
        except BROKER_ERRORS as error:
            raise OSError(f"the broker takes no message now ({type(error).__name__})") from error
