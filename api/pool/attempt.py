"""One delivery of one job on one host: from the claim to the answer, or to the job's being given back."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from ...nodes.host.history import Ended
from ..backend import Finished
from ..history import read_end
from ..jobs import Job
from ..prompt import build_prompt
from .files import PoolFiles
from .host import SUBFOLDER, ComfyHost, HostAway, Refused
from .hosts import Capability
from .progress import Progress
from .run import Claim, is_poisoned, poisoned
from .runs import CANCELED, KEPT, LOST, Runs
from .settings import PoolSettings
from .store import PoolStore, StoreError

DONE, AGAIN = "done", "again"
"""What becomes of a message: it is acknowledged, or given back to the broker for any worker."""

FIRST_LOOK, TOLD_LOOK, SLOWEST_LOOK = 0.02, 0.2, 0.5
"""Seconds until the host is first asked, also where it would tell by itself, and at most from one time to the next."""
STORE_SECONDS = 60.0  # for so long a store that does not answer is asked again before a job is given back

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class Bench:
    """What a worker works with. `forget` is told of files that the host need not keep; `progress` may be missing."""

    name: str
    settings: PoolSettings
    store: PoolStore
    runs: Runs
    files: PoolFiles
    host: ComfyHost
    capability: Callable[[str], Capability | None]
    forget: Callable[[str, list[str]], None] = lambda reference, outputs: None
    progress: Progress | None = None


class HostLost(Exception):
    """The host went away, or lost the prompt, after it had taken it."""


class Attempt:
    """Runs a claimed job and answers it; `run` says what becomes of the message.

    Args:
        strays: what is in the host's queue of a worker that died here: nobody waits for it.
    """

    def __init__(self, bench: Bench, job: Job, capability: Capability, claim: Claim, strays: Collection[str]) -> None:
        self.bench, self.job, self.capability, self.claim, self.strays = bench, job, capability, claim, strays
        self.prompt_id = _prompt_id(job.id, claim.attempt)
        self.end = time.monotonic() + bench.settings.job_seconds
        self.begun = False

    def run(self) -> str:
        with Pulse(self.bench, self.job.id, self.claim.attempt, self.prompt_id) as self.pulse:
            try:
                return self._answer(self._compute())
            except (HostAway, HostLost) as error:
                return self._give_back(error)
            except StoreError as error:
                log.error("Redux pool: job %s is given back: %s", self.job.id, error.message)
                return AGAIN
            except FileNotFoundError:
                return self._answer(Finished(error="The reference is no longer there."))

    def _compute(self) -> Finished | None:
        """The end of the job, with outputs as the file store names them; None where another has it."""
        ended = self._adopt() or self._order()
        if ended is None:
            return None
        end = read_end(ended)
        if end.canceled and self.pulse.state != CANCELED:
            raise HostLost("somebody interrupted its prompt")
        if not end.outputs:
            return end
        names = [self._keep(index, name) for index, name in enumerate(end.outputs)]
        self.bench.forget("", list(end.outputs))
        return replace(end, outputs=tuple(names))

    def _adopt(self) -> Ended | None:
        """What an earlier attempt on this very host has already made, whose worker died before it could say so."""
        for attempt in range(1, self.claim.attempt):
            ended = self.bench.host.ended(_prompt_id(self.job.id, attempt))
            if ended is not None and ended.succeeded:
                return ended
        return None

    def _order(self) -> Ended | None:
        bench, job = self.bench, self.job
        content = bench.files.read(job.order.reference)
        name = bench.host.upload(f"{hashlib.sha256(content).hexdigest()[:32]}.png", content)
        prompt = build_prompt(
            replace(job.order, reference=name),
            self.capability.models,
            f"{SUBFOLDER}/{job.id}-{self.claim.attempt}",
            self.capability.safety_threshold,
            self.capability.embed_workflow,
        )
        for stray in self.strays:
            bench.host.cancel(stray)
        self.begun = True
        self._rest(0.0)  # from now on, what the host says of it is heard
        try:
            bench.host.submit(self.prompt_id, prompt)
        except Refused as error:
            return _failed(f"This host cannot run the model: {error}.")
        except HostAway:  # perhaps it has taken it, and its answer was lost
            log.warning("Redux pool: the host did not answer when job %s was put into its queue.", job.id)
        try:
            return self._follow()
        finally:
            bench.forget(name, [])

    def _follow(self) -> Ended | None:
        """Ask the host until the prompt has ended; it alone knows."""
        is_told = self.bench.progress is not None and self.bench.progress.listens
        pause, silent_since, missed = TOLD_LOOK if is_told else FIRST_LOOK, 0.0, 0
        while True:
            pause = FIRST_LOOK if self._rest(pause) else min(1.3 * pause, SLOWEST_LOOK)
            if self.pulse.state == LOST:
                self._stop()
                return None
            late = time.monotonic() > self.end
            if late or self.pulse.state == CANCELED:
                self._stop()
            try:
                ended = self.bench.host.ended(self.prompt_id)
                waits = ended is None and self.prompt_id in self.bench.host.states()
                silent_since = 0.0
            except HostAway as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since >= self.bench.settings.host_seconds:
                    raise HostLost(str(error)) from error
                continue
            if ended is not None:
                return _failed(self._too_long()) if late and not ended.succeeded else ended
            missed = 0 if waits else missed + 1
            # Once it may have ended between the two questions; twice, it came back without its memory, or never heard.
            if missed >= 2:
                if self.pulse.state == CANCELED:
                    return Ended(False, True, {}, "", None)
                if late:
                    return _failed(self._too_long())
                raise HostLost("it does not know the prompt any more")

    def _rest(self, seconds: float) -> bool:
        """Whether the host says that the prompt has ended, before so many seconds have passed."""
        progress = self.bench.progress
        return progress.wait(self.prompt_id, seconds) if progress else self.pulse.over.wait(seconds)

    def _too_long(self) -> str:
        return f"The job took longer than {self.bench.settings.job_seconds:g} s."

    def _stop(self) -> None:
        with suppress(HostAway):
            self.bench.host.cancel(self.prompt_id)

    def _keep(self, index: int, name: str) -> str:
        """Copy a picture from the host to the file store."""
        kept = f"outputs/{self.job.id}/{self.claim.attempt}-{index}.{self.job.order.format}"
        self.bench.files.write(kept, self.bench.host.picture(name))
        return kept

    def _answer(self, end: Finished | None) -> str:
        if end is None:
            return DONE
        runs, id, attempt = self.bench.runs, self.job.id, self.claim.attempt
        if not insist(lambda: runs.finish(id, attempt, end)):
            for name in end.outputs:  # another attempt has answered, with pictures of its own
                with suppress(OSError):
                    self.bench.files.remove(name)
        return DONE

    def _give_back(self, error: Exception) -> str:
        """To the broker, or to the caller with a reason where too many hosts have died on it."""
        died = self.begun
        log.warning("Redux pool: the host of job %s is lost: %s.", self.job.id, error)
        deaths = self.claim.deaths + int(died)
        if died and is_poisoned(self.bench.settings, deaths, self.claim.vanished):
            return self._answer(Finished(error=poisoned(deaths, self.claim.vanished)))
        insist(lambda: self.bench.runs.release(self.job.id, self.claim.attempt, died))
        return AGAIN


class Pulse:
    """Beats for an attempt in a thread, as long as its context lasts; `state` is what the last beat was told."""

    def __init__(self, bench: Bench, id: str, attempt: int, prompt_id: str) -> None:
        self.bench, self.id, self.attempt, self.prompt_id = bench, id, attempt, prompt_id
        self.seconds = bench.settings.lease_seconds / 6
        self.state, self.over = KEPT, threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True, name="pulse")

    def __enter__(self) -> Pulse:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(2 * self.seconds)

    def _beat(self) -> None:
        while not self.over.wait(self.seconds):
            with suppress(StoreError):
                steps = self.bench.progress.of(self.prompt_id) if self.bench.progress else (0, 0)
                self.state = self.bench.runs.beat(self.id, self.attempt, *steps)


def insist(ask: Callable[[], T], seconds: float = STORE_SECONDS) -> T:
    """Ask the store until it answers.

    Raises:
        StoreError: it did not, for `seconds`.
    """
    end, pause = time.monotonic() + seconds, 0.1
    while True:
        try:
            return ask()
        except StoreError:
            if time.monotonic() > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 2.0)


def _prompt_id(id: str, attempt: int) -> str:
    """Of its own for each attempt, so that a host's memory of an earlier one is not taken for this one's."""
    return str(uuid.uuid5(uuid.UUID(id), str(attempt)))


def _failed(reason: str) -> Ended:
    return Ended(False, False, {}, reason, None)
