"""A worker's two processes: one speaks with the broker and watches the host, its child runs one job at a time."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from celery.signals import worker_process_init

from .app import TASK, make_app, make_queue
from .attempt import Bench
from .delivery import AGAIN, handle
from .files import PoolFiles
from .host import ComfyHost
from .hosts import Capability, Hosts
from .messages import STRATEGY
from .news import Teller
from .progress import Progress
from .runs import Runs
from .settings import PoolSettings, broker_place, load_pool_settings
from .store import PoolStore, StoreError
from .watch import IDLE_QUEUE, Watch

_PR_SET_PDEATHSIG = 1

log = logging.getLogger(__name__)


def work(url: str, name: str, folder: str) -> None:
    """Run until SIGTERM, which lets the job that runs come to its end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = load_pool_settings(os.environ)
        host = ComfyHost(url, f"redux-pool-{name}")
        PoolFiles(settings.files)
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
            raise ValueError(f"{name!r} is no name for a worker; letters, digits and . _ - are taken.")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    app = make_app(settings)
    _add_task(app, settings, host, url, name, Path(folder) if folder else None)
    app.conf.task_queues = [make_queue(settings, IDLE_QUEUE)]
    worker_process_init.connect(_end_with_parent, weak=False)
    worker = app.Worker(hostname=f"redux@{name}", pool="prefork", concurrency=1, loglevel="INFO", **_QUIET)
    watch = Watch(settings, host, name, worker)
    watch.start()
    log.info("Redux pool: worker %s of %s; broker %s.", name, url, broker_place(settings))
    worker.start()
    watch.stop()
    sys.exit(worker.exitcode or 0)


_QUIET = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}


def _add_task(app: Celery, settings: PoolSettings, host: ComfyHost, url: str, name: str, folder: Path | None) -> None:
    @lru_cache(maxsize=1)
    def bench() -> Bench:
        """In the child, whose connections are its own."""
        store = PoolStore(settings.store)
        hosts = Hosts(store.database)
        known: dict[str, Capability] = {}

        def capability(queue: str) -> Capability | None:
            if queue not in known:
                known.update(hosts.capabilities())
            return known.get(queue)

        runs = Runs(store.database, settings.lease_seconds, Teller(app).tell)
        files = PoolFiles(settings.files)
        progress = Progress(url, host.client).start()
        return Bench(name, settings, store, runs, files, host, capability, _forgetter(folder), progress)

    @app.task(name=TASK, bind=True, acks_late=True, reject_on_worker_lost=True, Strategy=STRATEGY)
    def run(task: Any, id: str) -> None:
        info = task.request.delivery_info or {}
        try:
            outcome = handle(bench(), id, str(info.get("routing_key")), bool(info.get("redelivered")))
        except StoreError as error:  # at its first connection
            log.error("Redux pool: job %s is given back: %s", id, error.message)
            outcome = AGAIN
        if outcome == AGAIN:
            raise Reject("another worker may do better", requeue=True)


def _forgetter(folder: Path | None) -> Any:
    """Removes what a host was given and what was fetched from it, where the worker may see its folder."""

    def forget(reference: str, outputs: list[str]) -> None:
        paths = [folder / "output" / name for name in outputs] if folder else []
        if folder and reference:
            paths.append(folder / "input" / reference)
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    return forget


def _end_with_parent(**_: Any) -> None:
    """A child whose parent is killed would go on with a job that the broker has given to another worker by then."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
