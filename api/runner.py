"""From an order to its pictures: through a backend's queue, over restarts, to one of three ends."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from .backend import QUEUED, RUNNING, Backend, Finished, State
from .errors import ApiError
from .job_store import StoreError
from .jobs import CANCELED, COMPLETED, CREATED, FAILED, PROCESSING, Job, Once, Order
from .references import References
from .settings import Settings
from .store import Store
from .supervise import Supervisor, on_deliberate_stop, worded

MAX_ATTEMPTS = 2
LOOK_SECONDS = 1.0
SWEEP_SECONDS = 600.0
INPUT_SECONDS = 24 * 3600.0  # after so long an input that no job names is what a killed server has left


class Runner:
    """Owns the jobs. Everything here runs in one event loop, so nothing needs a lock.

    A job is looked at only when the backend must know it, so not while it is `entering` or, after a restart, `left`.
    What the backend says is the truth, asked each second and whenever it stirs; the store is written to agree with it,
    and where that fails, the next look does it. `open_store` is called until it succeeds.
    """

    def __init__(self, settings: Settings, backend: Backend, open_store: Callable[[], Store]) -> None:
        self.settings, self.backend, self.open_store = settings, backend, open_store
        self.opened: Store | None = None
        self.supervisor = Supervisor()
        self.references = References(backend, self.supervisor, self._named)
        self.reference = self.references.hold
        self.stir = asyncio.Event()
        self.awaited: dict[str, asyncio.Event] = {}
        self.entering: set[str] = set()
        self.left: set[str] = set()
        self.canceled: set[str] = set()

    @property
    def store(self) -> Store:
        """Raises StoreError while it is not open."""
        if self.opened is None:
            error = self.supervisor.said.get("the job store")
            reason = error if isinstance(error, StoreError) else worded(error) if error else "it is not open yet"
            raise StoreError(reason)
        return self.opened

    async def start(self) -> None:
        """Take up what an earlier server left, and follow the queue from now on; no error ends the server's start."""
        self.backend.listen(self.stir.set, self._note_progress)
        on_deliberate_stop(self.note_stop)
        await self.supervisor.attempt("the job store", self._begin)
        self.supervisor.repeat("the jobs", self._follow)
        self.supervisor.repeat("removing old results", self.sweep, SWEEP_SECONDS)

    async def stop(self) -> None:
        await self.supervisor.stop()
        self.note_stop()
        if self.opened:
            self.opened.close()
            self.opened = None

    def note_stop(self) -> None:
        """This server ends on purpose: what runs now has not ended it."""
        if self.backend.outlives_server:
            return
        for job in list(self.opened.live.values()) if self.opened else ():
            if job.status == PROCESSING:
                self.store.update(job, status=CREATED, started=None, attempts=job.attempts - 1)

    async def submit(
        self,
        id: uuid.UUID,
        vendor: str,
        order: Order,
        request: dict[str, Any],
        owner: str = "",
        options: dict[str, Any] | None = None,
        once: Once | None = None,
    ) -> Job:
        """Queue an order under an id of its own.

        Raises:
            Repeated: there is a job of this request already.
            ApiError: 503 where the backend refuses it, because a model file is not there for instance, or where the
                store cannot be written. There is no job then.
        """
        key, digest = (once.key, once.digest) if once else ("", "")
        told: dict[str, Any] = {"owner": owner, "options": options or {}, "key": key, "digest": digest}
        job = Job(id.hex, vendor, order, request, steps=order.steps, **told)
        checked = await self.backend.check(job)
        self.entering.add(job.id)
        try:
            self.store.put(job)
            try:
                await self.backend.submit(job, checked)
            except BaseException:
                self.store.remove(job.id)
                raise
        finally:
            self.entering.discard(job.id)
        return job

    async def cancel(self, job: Job) -> Job:
        """Take a job out of the queue or interrupt it. What is done stays as it is."""
        if job.done:
            return job
        await self._withdraw(job)
        return await self.wait(job, 2.0)

    async def wait(self, job: Job, seconds: float) -> Job:
        """The job when it is done, or as it is after some seconds."""
        if job.id in self.store.live:
            over = self.awaited.setdefault(job.id, asyncio.Event())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), seconds)
        return self.store.get(job.id) or job

    async def _withdraw(self, job: Job) -> None:
        self.canceled.add(job.id)  # the look may find it gone before we have written why
        if await self.backend.cancel(job):
            await self._end(job, status=CANCELED)
            self._tell()

    async def _begin(self) -> None:
        """Open the store, and queue its jobs once more where the backend does not know them."""
        if self.opened is None:
            self.opened = self.open_store()
            self.left.update(self.opened.live)
            await self.supervisor.attempt("removing old references", partial(self.references.sweep, time.time()))
        left = [job for job in self.store.live.values() if job.id in self.left]
        states = await self.backend.poll([job.id for job in left]) if left else {}
        problem: OSError | None = None
        for job in left:
            try:
                if job.id not in states:
                    await self._resume(job)
                self.left.discard(job.id)
            except OSError as error:  # the others first
                problem = error
        if problem:
            raise problem

    async def _resume(self, job: Job) -> None:
        """Queue a job of an earlier server once more; one that ran in several servers' last moment is given up."""
        if job.attempts >= MAX_ATTEMPTS:
            await self._end(job, status=FAILED, error="The server ended each time while it ran this job.")
            return
        if job.id in self.canceled:
            await self._end(job, status=CANCELED)
            return
        try:
            checked = await self.backend.check(job)
            await self.backend.clear(job)
        except OSError:  # passes, and is tried again
            raise
        except Exception as error:
            reason = error.message if isinstance(error, ApiError) else f"{type(error).__name__}: {error}"
            await self._end(job, status=FAILED, error=f"After a new start of the server: {reason}")
            return
        await self.backend.submit(self.store.update(job, status=CREATED, started=None), checked)

    def _named(self) -> set[str]:
        """The references of the jobs that are not done."""
        return {job.order.reference for job in self.store.live.values()}

    def _note_progress(self, id: str, step: int, steps: int) -> None:
        if self.opened:
            self.opened.note_progress(id, step, steps)

    async def _follow(self) -> None:
        """Bring the jobs up to the backend's state at every event, and each second in case one was missed."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stir.wait(), LOOK_SECONDS)
        self.stir.clear()
        if self.opened is None or self.left:
            await self.supervisor.attempt("the job store", self._begin)
        if self.opened:
            await self.look()
            self._tell()
        await self.references.retry()

    async def look(self) -> None:
        states = await self.backend.poll(ids := set(self.store.live) - self.entering - self.left)
        for id in ids:
            job = self.store.live.get(id)
            if job is not None:
                await self._apply(job, states.get(id))

    async def _apply(self, job: Job, state: State | None) -> None:
        if job.overdue:
            self.canceled.add(job.id)
        if isinstance(state, Finished):
            await self._finish(job, state)
        elif state is None and job.id in self.canceled:
            await self._end(job, status=CANCELED)
        elif state is None:
            await self._end(job, status=FAILED, error="The job was taken out of ComfyUI's queue.")
        elif state == RUNNING and job.status != PROCESSING:
            job = self.store.update(job, status=PROCESSING, started=time.time(), attempts=job.attempts + 1)
        if state in (QUEUED, RUNNING) and job.id in self.canceled:
            await self._withdraw(job)  # again, too: a host forgets an interrupt that comes just as it begins a job

    async def _finish(self, job: Job, end: Finished) -> None:
        status = CANCELED if end.canceled else FAILED if end.error else COMPLETED
        found = {"outputs": end.outputs, "flags": end.flags, "error": end.error, "started": job.started or end.started}
        await self._end(job, status=status, **found)

    async def _end(self, job: Job, **changes: Any) -> Job:
        job = self.store.update(job, finished=time.time(), **changes)
        self.canceled.discard(job.id)
        await self.references.drop(job.order.reference)
        return job

    def _tell(self) -> None:
        """Wake whoever waits for a job that is done, also where another server's word of it came by the store."""
        for id in self.awaited.keys() - self.store.live.keys():
            self.awaited.pop(id).set()

    async def sweep(self) -> None:
        """Remove results, files and all, when they are older than the settings keep them.

        A row goes after its files. What cannot be removed now is tried again the next time, and keeps back nothing.
        """
        problem: Exception | None = None
        for job in self.store.old(time.time() - 3600 * self.settings.keep_hours):
            try:
                for name in job.outputs:
                    await self.backend.remove_output(name)
                self.store.remove(job.id)
            except (OSError, ApiError) as error:
                problem = error
        await self.references.sweep(time.time() - INPUT_SECONDS)
        if problem:
            raise problem
