"""The pool under kill -9: hosts, workers, gateway and broker die at random moments, and what became of each job.

    python -m tools.pool_chaos --minutes 10

At the end every accepted job must have been answered, once, with the very picture that one host alone makes of it.
"""

from __future__ import annotations

import argparse
import base64
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from .errors import ToolError
from .pool_parts import LocalPool, Part
from .pool_verdict import Asked, Verdict, png
from .rabbitmq import Broker
from .signals import end_on_signals
from .soak_callers import DONE, V3, ask, post

JOBS = 200
HOSTS = ("a", "b")
SETTLE_SECONDS = 120.0
"""For so long no job may have come to its end, when the killing is over, before the rest count as stuck."""
SUBMIT_SHARE = 0.8
"""Of the time, in which jobs are submitted."""
PAUSE = (2.0, 8.0)
"""Seconds from one killing to the next."""
DOWN = (0.0, 2.0)
"""Seconds for which what was killed is away."""
ENVIRON = {
    "REDUX_POOL_LEASE_SECONDS": "3",
    "REDUX_POOL_HOST_SECONDS": "3",
    # Every host dies again and again here, through no fault of the jobs: none is to be taken for poisoned.
    "REDUX_POOL_MAX_DEATHS": "1000",
}
WITNESS = """
CREATE TABLE IF NOT EXISTS witness (id TEXT, what TEXT);
CREATE TRIGGER IF NOT EXISTS answered AFTER UPDATE ON redux_runs WHEN NEW.state = 'finished' AND OLD.state <> 'finished'
BEGIN INSERT INTO witness VALUES (NEW.id, 'answered'); END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE ON redux_runs WHEN OLD.state = 'finished'
AND (NEW.answer <> OLD.answer OR NEW.state <> OLD.state)
BEGIN INSERT INTO witness VALUES (NEW.id, 'changed'); END;
"""
"""The database itself notes each answer, whatever the programs say."""


class Chaos:
    """Args: `seed` decides who dies when; `seconds` is what a job takes on a host."""

    def __init__(self, folder: Path, minutes: float, jobs: int = JOBS, seconds: float = 2.0, seed: int = 1) -> None:
        self.duration, self.count, self.seconds, self.random = 60 * minutes, jobs, seconds, random.Random(seed)
        self.broker = Broker(folder / "broker")
        self.pool = LocalPool(folder / "pool", self.broker, {"max_queue": 2 * jobs}, ENVIRON)
        self.asked: list[Asked] = []
        self.kills: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self.over = threading.Event()

    def run(self) -> Verdict:
        try:
            self._start()
            caller = threading.Thread(target=self._submit, daemon=True)
            caller.start()
            self._kill_all_the_while()
            caller.join(SETTLE_SECONDS)
            self.over.set()
            return self._settle()
        finally:
            self.pool.stop()
            self.broker.stop()

    def table(self, verdict: Verdict) -> str:
        """What was done and what became of it, in Markdown."""
        with closing(sqlite3.connect(self.pool.folder / "jobs.sqlite")) as database:
            (attempts,) = database.execute("SELECT sum(attempt) FROM redux_runs").fetchone()
            (slowest,) = database.execute("SELECT max(ended - created) FROM redux_runs").fetchone()
        rows = [("minutes", f"{self.duration / 60:g}"), ("hosts", str(len(HOSTS)))]
        rows += [(f"killed: {name}", str(count)) for name, count in sorted(self.kills.items())]
        rows += [("jobs accepted", str(len(self.asked))), ("attempts at them", str(attempts))]
        rows += [("lost", str(len(verdict.lost))), ("answered twice", str(len(verdict.twice)))]
        rows += [("for ever processing", str(len(verdict.unfinished))), ("failed", str(len(verdict.failed)))]
        rows += [("pictures equal to a single host's", str(verdict.equal)), ("slowest job, s", f"{slowest:.1f}")]
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])

    def _start(self) -> None:
        self.broker.start()
        for name in HOSTS:
            self.pool.add_host(name, self.seconds)
        self.gateway = self.pool.add_gateway()
        end = time.monotonic() + SETTLE_SECONDS
        while (asked := self._ask(0)) is None:
            if time.monotonic() > end:
                raise ToolError(f"The pool does not begin; its logs are in {self.pool.folder}.")
            time.sleep(0.5)
        self.asked.append(asked)
        with closing(sqlite3.connect(self.pool.folder / "jobs.sqlite", timeout=30)) as database:
            database.executescript(WITNESS)

    def _submit(self) -> None:
        """All jobs, evenly over the time; what is refused or not answered is asked again."""
        start, share = time.monotonic(), SUBMIT_SHARE * self.duration / self.count
        for number in range(1, self.count):
            while not self.over.is_set():
                self.over.wait(max(0.0, start + number * share - time.monotonic()))
                if (asked := self._ask(number)) is not None:
                    self.asked.append(asked)
                    break
                time.sleep(0.3)

    def _ask(self, number: int) -> Asked | None:
        color = (number % 256, number // 256, 77)
        body = {"image": base64.b64encode(png(color)).decode(), "size": "256*256", "num_inference_steps": 1}
        body |= {"enable_safety_checker": False, "seed": number, "output_format": "png"}
        status, answer = post(self.gateway.url, V3, body)
        if status == 200:
            return Asked(answer["data"]["id"], number, color, time.time())
        self.refused[status] += 1
        return None

    def _kill_all_the_while(self) -> None:
        """One after the other in a random order; what is killed comes back on its own, and the next may fall before."""
        end, order = time.monotonic() + self.duration, list[str]()
        parts, reviving = self._parts(), dict[str, threading.Thread]()
        while time.monotonic() < end or len(self.kills) < len(parts):
            if not order:
                order = self.random.sample(sorted(parts), len(parts))
            name = order.pop()
            if name in reviving:
                reviving[name].join()
            parts[name].kill()
            self.kills[name] += 1
            reviving[name] = threading.Thread(target=_revive, args=(parts[name], self.random.uniform(*DOWN)))
            reviving[name].start()
            time.sleep(min(self.random.uniform(*PAUSE), self.duration / 15))
        for thread in reviving.values():
            thread.join()

    def _parts(self) -> dict[str, Part | Broker]:
        found: dict[str, Part | Broker] = {f"host {name}": host for name, host in self.pool.hosts.items()}
        found |= {f"worker {name}": worker for name, worker in self.pool.workers.items()}
        return found | {"gateway": self.gateway, "broker": self.broker}

    def _settle(self) -> Verdict:
        """Wait for every job's end, as long as any comes to its own, and look at it."""
        verdict, end = Verdict(), time.monotonic() + SETTLE_SECONDS
        for asked in self.asked:
            path = f"/api/v3/predictions/{asked.id}/result"
            job = self._look(path)
            while job.get("status") not in DONE and time.monotonic() < end:
                time.sleep(0.2)
                job = self._look(path)
            if job.get("status") in DONE:
                end = time.monotonic() + SETTLE_SECONDS
            verdict.judge(asked, job)
        with closing(sqlite3.connect(self.pool.folder / "jobs.sqlite", timeout=30)) as database:
            found = database.execute("SELECT id, what, count(*) FROM witness GROUP BY id, what").fetchall()
        verdict.twice += [id for id, what, count in found if what == "changed" or count > 1]
        return verdict

    def _look(self, path: str) -> dict[str, Any]:
        status, answer = ask(self.gateway.url, "GET", path)
        return {"status": "lost"} if status == 404 else dict(answer.get("data") or {})


def _revive(part: Part | Broker, seconds: float) -> None:
    time.sleep(seconds)
    part.start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.pool_chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--seconds", type=float, default=2.0, help="that a job takes on a host")
    parser.add_argument("--seed", type=int, default=1, help="of who dies when")
    args = parser.parse_args()
    end_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="redux-chaos-"))
    try:
        chaos = Chaos(folder, args.minutes, args.jobs, args.seconds, args.seed)
        verdict = chaos.run()
        print(chaos.table(verdict))
    except (ToolError, KeyboardInterrupt) as error:
        sys.exit(f"error: {error or 'interrupted'} (folder: {folder})")
    if verdict.problems():
        print(*verdict.problems(), sep="\n")
        sys.exit(f"error: the pool did not keep its word; its logs are in {folder}.")
    shutil.rmtree(folder, ignore_errors=True)
    print("All is well.")


if __name__ == "__main__":
    main()
