"""A worker's watch over its host: what it takes jobs for, and what it tells the pool."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from typing import Any

from celery.signals import task_received
from celery.worker import state

from .app import make_queue
from .database import Database
from .host import ComfyHost, HostAway
from .hosts import AWAY, LEAVING, READY, Capability, HostReport, Hosts
from .settings import PoolSettings
from .store import StoreError

WATCH_SECONDS = 1.0
MODELS_EVERY = 10
"""Looks from one reading of the host's model lists to the next."""
IDLE_QUEUE = "redux.none"
"""Nobody publishes to it; Celery wants a worker to have one."""
WARM, COLD = 1, 0

# A child that is forked while a connection is open takes SQLite's memory of its locks for locks that hold for ever.
_FORKS = threading.Lock()
os.register_at_fork(before=_FORKS.acquire, after_in_parent=_FORKS.release, after_in_child=_FORKS.release)

log = logging.getLogger(__name__)


@dataclass
class Seen:
    """What the last looks have found."""

    state: str = AWAY
    problem: str = ""
    files: tuple[str, ...] = ()
    memory_gb: float = 0.0
    queues: dict[str, Capability] = field(default_factory=dict)


class Watch:
    """A thread. It alone decides from which queues the worker takes: from none while the host is away.

    Args:
        worker: Celery's, whose consumer runs in the main thread.
    """

    def __init__(self, settings: PoolSettings, host: ComfyHost, name: str, worker: Any) -> None:
        self.settings, self.host, self.name, self.worker = settings, host, name, worker
        self.over, self.looks = threading.Event(), 0
        self.database: Database | None = None
        self.seen, self.warm = Seen(), ""
        self.thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def start(self) -> None:
        task_received.connect(self._note_run, weak=False)
        self.thread.start()

    def stop(self) -> None:
        self.over.set()
        self.thread.join(5.0)
        self.seen.state = LEAVING
        self._tell()

    def _run(self) -> None:
        while not self.over.wait(WATCH_SECONDS if self.looks else 0.0):
            self.looks += 1
            try:
                self._look()
                self._tell()
            except Exception:
                log.exception("Redux pool: the watch over the host")
            consumer = getattr(self.worker, "consumer", None)
            if consumer is not None and getattr(consumer, "hub", None) is not None:
                consumer.call_soon(self._take, consumer)

    def _look(self) -> None:
        was = self.seen.state
        try:
            self.host.states()
            if was != READY or self.looks % MODELS_EVERY == 1:
                self.seen.files, self.seen.memory_gb = self.host.files(), self.host.memory_gb()
            self.seen.state, self.seen.problem = READY, ""
        except HostAway as error:
            self.seen.state, self.seen.problem = AWAY, str(error)
            self.warm = ""  # it comes back with nothing loaded
        if self.seen.state == was:
            return
        if self.seen.state == READY:
            log.info("Redux pool: the host is ready and has %d model files.", len(self.seen.files))
        else:
            log.warning("Redux pool: the host is away: %s.", self.seen.problem)

    def _tell(self) -> None:
        """Report to the pool, and hear of new queues. A store that is away changes nothing."""
        with _FORKS:
            try:
                database = self.database = self.database or Database(self.settings.store)
                try:
                    hosts = Hosts(database)
                    self.seen.queues = hosts.capabilities()
                    hosts.report(self.report())
                finally:
                    database.close()
            except StoreError as error:
                log.warning("Redux pool: the job store: %s", error.message)

    def report(self) -> HostReport:
        seen, job = self.seen, next((request.id for request in list(state.active_requests)), "")
        return HostReport(self.name, seen.state, seen.files, round(seen.memory_gb, 1), self.warm, job, seen.problem)

    def wanted(self) -> dict[str, int]:
        """The queues to take from, and how gladly: those whose models are loaded first."""
        if self.seen.state != READY:
            return {}
        report = self.report()
        served = [name for name, capability in self.seen.queues.items() if report.serves(capability)]
        return {name: WARM if name == self.warm else COLD for name in served}

    def _note_run(self, request: Any = None, **_: Any) -> None:
        """A job has come: its queue's models are what the host has loaded next."""
        self.warm = str((request.delivery_info or {}).get("routing_key", ""))

    def _take(self, consumer: Any) -> None:
        """In the main thread: bring what the broker delivers into line with what is wanted."""
        if consumer.task_consumer is None:
            return
        queues, wanted = consumer.app.amqp.queues, self.wanted()
        for name in [name for name in queues.consume_from if name != IDLE_QUEUE]:
            arguments = queues[name].consumer_arguments or {}
            if name not in wanted or arguments.get("x-priority", COLD) != wanted[name]:
                consumer.cancel_task_queue(name)
        for name, preference in wanted.items():
            if not consumer.task_consumer.consuming_from(name):
                queues.add(make_queue(self.settings, name, preference))
                consumer.add_task_queue(name)
