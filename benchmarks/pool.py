"""The pool's own share: what a job costs beyond the host's work, and how a pool grows with its hosts.

    python -m benchmarks.pool [--rate 100] [--seconds 20] [--growth 1,2,4,8,16] [--store URL] [--json FILE]

A real RabbitMQ, one gateway, and a worker beside each host are programs of their own; the hosts answer as ComfyUI does
and compute nothing for a set time, so whatever else a job takes is the pool's. Jobs are posted as callers do, each
with a picture. Times are the job store's own: from a job's making to the moment at which its end is written, and in
between `begun`, until a worker has claimed it, `run`, until its answer, and `told`, until the gateway has written it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import sqlalchemy as sa
from aiohttp import web
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from tools.pool_parts import LocalPool, Part  # noqa: E402
from tools.rabbitmq import Broker  # noqa: E402
from tools.server import free_port  # noqa: E402
from tools.simulated_host import SimulatedHost  # noqa: E402

ROUTE = "/api/v3/wavespeed-ai/flux-redux-dev"
SETTLE_SECONDS = 120.0
TICK = os.sysconf("SC_CLK_TCK")
HOSTS_A_PROCESS = 4  # so many simulated hosts are never what is measured
STAGES = """
SELECT j.created, r.started, r.ended, j.finished FROM redux_jobs j JOIN redux_runs r ON r.id = j.id
WHERE j.finished IS NOT NULL AND j.created > :after
"""


@dataclass
class Row:
    """One case. Times are seconds; `overhead` is what a job took beyond its host's time, `stages` is what of it went
    by where, `cpu` per job and part."""

    hosts: int
    jobs: int
    host_seconds: float
    asked_rate: float
    seconds: float = 0.0
    rate: float = 0.0
    accepted: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)


def serve_hosts(ports: list[int], seconds: float) -> None:
    """Several simulated hosts in one process, so that they take little from what is measured."""

    async def run() -> None:
        for port in ports:
            runner = web.AppRunner(SimulatedHost(seconds).app(), access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    asyncio.run(run())


class Bench:
    """A pool of `count` hosts, ready for jobs, for as long as the context lasts."""

    def __init__(self, folder: Path, broker: Broker, count: int, seconds: float, store: str) -> None:
        settings = {"max_queue": 100_000, "safety_threshold": random.random()}  # a queue of its own
        environ = {"REDUX_POOL_STORE": store} if store else {}
        self.pool = LocalPool(folder, broker, settings, environ)
        self.count, self.seconds, self.broker = count, seconds, broker
        self.engine = sa.create_engine(self.pool.environ["REDUX_POOL_STORE"], isolation_level="AUTOCOMMIT")

    def __enter__(self) -> Bench:
        ports = [free_port() for _ in range(self.count)]
        parts = [ports[first : first + HOSTS_A_PROCESS] for first in range(0, self.count, HOSTS_A_PROCESS)]
        process = multiprocessing.get_context("spawn").Process
        self.hosts = [process(target=serve_hosts, args=(part, self.seconds)) for part in parts]
        for host in self.hosts:
            host.start()
        self.gateway = self.pool.add_gateway()
        for index, port in enumerate(ports):
            self.pool.add_worker(f"{index:02}", f"http://127.0.0.1:{port}")
        self._wait_for_workers()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()
        self.pool.stop()
        for host in self.hosts:
            host.kill()
            host.join()

    def measure(self, jobs: int, rate: float) -> Row:
        """Post jobs at a rate (0: all at once), and wait for the last."""
        row = Row(self.count, jobs, self.seconds, rate)
        before, cpu, began = self._last(), self._cpu(), time.time()
        row.accepted = asyncio.run(post_all(self.gateway.url, jobs, rate))
        end = time.monotonic() + SETTLE_SECONDS + jobs * self.seconds / self.count
        while len(found := self._ended(before)) < jobs:
            assert time.monotonic() < end, f"{jobs - len(found)} jobs do not end"
            time.sleep(0.25)
        row.cpu = {name: (used - cpu[name]) / jobs for name, used in self._cpu().items()}
        row.seconds = max(job.finished for job in found) - began
        row.rate = jobs / row.seconds
        row.overhead = [job.finished - job.created - self.seconds for job in found]
        row.stages = {
            "begun": [job.started - job.created for job in found],
            "run": [job.ended - job.started - self.seconds for job in found],
            "told": [job.finished - job.ended for job in found],
        }
        return row

    def _wait_for_workers(self) -> None:
        end = time.monotonic() + SETTLE_SECONDS
        ready = "SELECT count(*) FROM redux_hosts WHERE content LIKE '%\"ready\"%'"
        while self._scalar(ready) < self.count:
            assert time.monotonic() < end, "the workers do not start"
            time.sleep(0.2)
        time.sleep(2.0)  # until each takes from the queue that it has just heard of
        for _ in range(2):  # each worker's connections and modules
            self.measure(2 * self.count, 0)

    def _last(self) -> float:
        return float(self._scalar("SELECT coalesce(max(created), 0) FROM redux_jobs"))

    def _ended(self, after: float) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(STAGES), {"after": after}))

    def _scalar(self, query: str) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(sa.text(query)).scalar()

    def _cpu(self) -> dict[str, float]:
        """CPU seconds that each part of the pool has used so far, children and all."""
        parts: dict[str, list[Part]] = {"gateway": [self.gateway], "workers": list(self.pool.workers.values())}
        found = {name: sum(cpu_of(item.process.pid) for item in items if item.process) for name, items in parts.items()}
        assert self.broker.process is not None
        return {**found, "broker": cpu_of(self.broker.process.pid)}


def cpu_of(session: int) -> float:
    """CPU seconds of all processes of a session, which each part leads."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(values[3]) == session:
            total += sum(int(value) for value in values[11:15])
    return total / TICK


async def post_all(url: str, jobs: int, rate: float) -> list[float]:
    """Seconds until each job was accepted. Later jobs do not wait for earlier ones' answers."""
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), (200, 90, 30)).save(buffer, "PNG")
    picture, took = base64.b64encode(buffer.getvalue()).decode(), list[float]()

    async def post(session: aiohttp.ClientSession, seed: int) -> None:
        body = {"image": picture, "size": "256*256", "num_inference_steps": 1, "seed": seed}
        began = time.perf_counter()
        async with session.post(url + ROUTE, json={**body, "enable_safety_checker": False}) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        took.append(time.perf_counter() - began)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
        began, tasks = time.perf_counter(), []
        for index in range(jobs):
            if rate:
                await asyncio.sleep(max(0.0, began + index / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(post(session, index)))
        await asyncio.gather(*tasks)
    return took


@contextmanager
def bench(broker: Broker, count: int, seconds: float, store: str) -> Any:
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder), broker, count, seconds, store) as made:
        yield made


def describe(row: Row) -> str:
    ms = [1000 * value for value in sorted(row.overhead)]
    cpu = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in row.cpu.items())
    accepted = 1000 * statistics.median(row.accepted)
    stages = ", ".join(f"{name} {1000 * statistics.median(times):.1f}" for name, times in row.stages.items())
    return (
        f"{row.hosts:2} hosts of {row.host_seconds:g} s, {row.jobs} jobs at {row.asked_rate:g}/s: {row.seconds:.2f} s, "
        f"{row.rate:.1f} jobs/s; accepted in {accepted:.1f} ms; beyond the host's time {statistics.median(ms):.1f} ms "
        f"(19 of 20 below {ms[int(0.95 * len(ms))]:.1f}), of it {stages}; CPU ms a job: {cpu}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", default="10,25,50,100", help="jobs a second, through one gateway; 0 for none")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which each rate is kept")
    parser.add_argument(
        "--rate-hosts", type=int, default=0, help="hosts for the rates; by default as many as they need"
    )
    parser.add_argument("--growth", default="1,2,4,8,16", help="numbers of hosts; empty for none")
    parser.add_argument("--jobs", type=int, default=48, help="for each number of hosts")
    parser.add_argument("--store", default="", help="a database; by default SQLite in a folder of its own")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
        for rate in [float(text) for text in args.rate.split(",") if float(text)]:
            count = args.rate_hosts or max(2, round(rate * 0.1 * 2.4))  # so that a job finds a free one
            with bench(broker, count, 0.1, args.store) as made:
                rows.append(made.measure(round(rate * args.seconds), rate))
                print(describe(rows[-1]), flush=True)
        grown = []
        for count in [int(text) for text in args.growth.split(",") if text]:
            with bench(broker, count, 0.5, args.store) as made:
                grown.append(made.measure(args.jobs, 0))
                share = grown[-1].seconds / grown[0].seconds
                print(f"{share:.3f} of {grown[0].hosts} host's time: {describe(grown[-1])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows + grown]), "utf-8")


if __name__ == "__main__":
    main()
