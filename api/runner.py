"""From an order to its pictures: through ComfyUI's queue, over restarts, to one of three ends."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import ApiError
from .host_queue import RUNNING, Finished, HostQueue
from .jobs import CANCELED, COMPLETED, FAILED, PROCESSING, Job, JobStore, Order
from .prompt import SAFETY, SAVE, build_prompt
from .settings import Settings

FOLDER = "redux-api"
MAX_ATTEMPTS = 2
LOOK_SECONDS = 1.0
SWEEP_SECONDS = 600.0

log = logging.getLogger(__name__)


class Runner:
    """Owns the jobs. Everything here runs in the server's event loop, so nothing needs a lock.

    Args:
        inputs, outputs: ComfyUI's folders; references and pictures lie in their sub-folder redux-api.
    """

    def __init__(self, settings: Settings, store: JobStore, inputs: Path, outputs: Path) -> None:
        self.settings, self.store, self.inputs, self.outputs = settings, store, inputs, outputs
        self.host = HostQueue(self._hear)
        self.stir = asyncio.Event()
        self.changed = asyncio.Condition()
        self.arriving: dict[str, int] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up what an earlier server left, and follow the queue from now on."""
        for job in list(self.store.live.values()):
            await self._resume(job)
        self.tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._sweep())]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with suppress(asyncio.CancelledError):
                await task
        self.store.close()

    def keep_reference(self, png: bytes) -> str:
        """Put a reference into ComfyUI's input folder; the name for an order. Equal pictures share one file."""
        name = f"{hashlib.sha256(png).hexdigest()[:32]}.png"
        path = self.inputs / FOLDER / name
        self.arriving[name] = self.arriving.get(name, 0) + 1
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{uuid.uuid4().hex}")
            partial.write_bytes(png)
            partial.replace(path)
        return f"{FOLDER}/{name}"

    def release_reference(self, reference: str) -> None:
        """The order that names this reference is in the store, or was refused."""
        name = reference.rpartition("/")[2]
        self.arriving[name] -= 1
        if not self.arriving[name]:
            del self.arriving[name]
        self._drop_reference(reference)

    async def submit(self, vendor: str, order: Order, request: dict[str, Any]) -> Job:
        """Queue an order.

        Raises:
            ApiError: 503 where ComfyUI refuses the workflow, because a model file is not there for instance.
        """
        id = uuid.uuid4()
        prompt = self._prompt(id.hex, order)
        outputs, problem = await self.host.check(str(id), prompt)
        if problem:
            raise ApiError(503, f"This server cannot run the model: {problem}.")
        # From here on nothing is awaited: a job is in the store and in the queue, or in neither.
        job = self.store.put(Job(id.hex, vendor, order, request, attempts=1, steps=order.steps))
        self.host.put(str(id), prompt, outputs)
        return job

    async def cancel(self, job: Job) -> Job:
        """Take a job out of the queue or interrupt it. What is done stays as it is."""
        if job.done:
            return job
        if self.host.remove(_prompt_id(job)):
            job = self._end(job, status=CANCELED)
            await self._tell()
            return job
        self.host.interrupt(_prompt_id(job))
        return await self.wait(job, 2.0)

    async def wait(self, job: Job, seconds: float) -> Job:
        """The job when it is done, or as it is after some seconds."""

        async def until_done() -> None:
            async with self.changed:
                await self.changed.wait_for(lambda: job.id not in self.store.live)

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(until_done(), seconds)
        return self.store.get(job.id) or job

    def _prompt(self, id: str, order: Order) -> dict[str, dict[str, Any]]:
        prefix = f"{FOLDER}/{id}"
        return build_prompt(order, self.settings.models, prefix, self.settings.safety_threshold)

    async def _resume(self, job: Job) -> None:
        """Queue a job of an earlier server once more; one that has seen several servers end is given up."""
        if job.attempts >= MAX_ATTEMPTS:
            self._end(job, status=FAILED, error="The server ended each time while this job was in its queue.")
            return
        for path in (self.outputs / FOLDER).glob(f"{job.id}_*"):
            path.unlink()
        prompt = self._prompt(job.id, job.order)
        outputs, problem = await self.host.check(_prompt_id(job), prompt)
        if problem:
            self._end(job, status=FAILED, error=f"The server was started again and cannot run this job: {problem}.")
            return
        self.store.update(job, attempts=job.attempts + 1, status="created", started=None)
        self.host.put(_prompt_id(job), prompt, outputs)

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        """An event of one of our prompts, as a page would get it."""
        id = str(data.get("prompt_id", "")).replace("-", "")
        if kind == "progress" and data.get("node") == "sample":
            self.store.note_progress(id, int(data["value"]), int(data["max"]))
        self.stir.set()

    async def _follow(self) -> None:
        """Bring the jobs up to the queue's state at every event, and each second in case one was missed."""
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.stir.wait(), LOOK_SECONDS)
            self.stir.clear()
            try:
                if self._look():
                    await self._tell()
            except OSError as error:  # a full disk, most of all; the next look tries again
                log.warning("Redux API: %s.", error)

    def _look(self) -> bool:
        """Whether any job came to its end."""
        before = len(self.store.live)
        # The queue first, the history after it: a prompt is always in one of them, so what is in neither is gone.
        states = self.host.states()
        for job in list(self.store.live.values()):
            state = states.get(_prompt_id(job))
            if state == RUNNING and job.status != PROCESSING:
                self.store.update(job, status=PROCESSING, started=time.time())
            elif state is None:
                self._finish(job, self.host.finished(_prompt_id(job)))
        return len(self.store.live) < before

    def _finish(self, job: Job, end: Finished | None) -> None:
        if end is None:
            self._end(job, status=FAILED, error="The job was taken out of ComfyUI's queue.")
        elif end.interrupted:
            self._end(job, status=CANCELED)
        elif not end.succeeded:
            self._end(job, status=FAILED, error=end.error or "ComfyUI could not run the workflow.")
        else:
            flags = tuple(bool(flag) for flag in end.outputs.get(SAFETY, {}).get("flags", ()))
            images = end.outputs.get(SAVE, {}).get("images", ())
            outputs = tuple(f"{image['subfolder']}/{image['filename']}" for image in images)
            if outputs:
                self._end(job, status=COMPLETED, outputs=outputs, flags=flags)
            else:
                error = "The safety check flagged every picture." if flags else "The workflow saved no picture."
                self._end(job, status=FAILED, flags=flags, error=error)

    def _end(self, job: Job, **changes: Any) -> Job:
        job = self.store.update(job, finished=time.time(), **changes)
        self._drop_reference(job.order.reference)
        return job

    def _drop_reference(self, reference: str) -> None:
        used = any(job.order.reference == reference for job in self.store.live.values())
        if not used and reference.rpartition("/")[2] not in self.arriving:
            with suppress(FileNotFoundError):
                os.unlink(self.inputs / reference)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _sweep(self) -> None:
        """Remove results, files and all, when they are older than the settings keep them."""
        while True:
            for job in self.store.pop_old(time.time() - 3600 * self.settings.keep_hours):
                for name in job.outputs:
                    with suppress(FileNotFoundError):
                        os.unlink(self.outputs / name)
            await asyncio.sleep(SWEEP_SECONDS)


def _prompt_id(job: Job) -> str:
    return str(uuid.UUID(job.id))
