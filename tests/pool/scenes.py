"""What the tests of the pool's programs share: callers of a local pool, and what a host alone would make."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from caller import V3, Api, base64_of, load, png, wave

from tools.pool_parts import LocalPool, Served
from tools.simulated_host import picture_of

Color = tuple[int, int, int]
PATIENCE = 120.0
"""Seconds after which what does not come is taken for lost: a busy machine needs 15 to start a pool's parts."""


def api_of(pool: LocalPool, name: str = "gateway", **headers: str) -> Api:
    return Api(pool.gateways[name].url, headers)


def ask(api: Api, seed: int = 1, color: Color = (1, 2, 3), **more: Any) -> dict[str, Any]:
    """A job that is accepted, as the vendor describes it."""
    answer = api.post(V3, wave(seed=seed, output_format="png", image=base64_of(png(color=color)), **more))
    assert answer.status == 200, answer.body
    return dict(answer.json["data"])


def finish(api: Api, job: dict[str, Any], seconds: float = PATIENCE) -> dict[str, Any]:
    """The job at its end; the gateway may be another one by then."""
    return api.finish(f"/api/v3/predictions/{job['id']}/result", seconds)


def expected(seed: int = 1, color: Color = (1, 2, 3), **more: Any) -> bytes:
    """What one host alone makes of the order that `ask` makes."""
    jobs, prompts, settings = load("jobs"), load("prompt"), load("settings")
    order = jobs.Order("", 256, 256, 1, 1, 3.5, seed, format="png", quality=95, **more)
    return picture_of(prompts.build_prompt(order, settings.Models(), "", 0.8), png(color=color))


def status(api: Api, job: dict[str, Any]) -> str:
    return str(api.get(f"/api/v3/predictions/{job['id']}/result").json["data"]["status"])


def wait_until(holds: Callable[[], Any], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.05)


def wait_for_hosts(api: Api) -> None:
    """Until a job comes back: before a host is seen, jobs are refused."""
    wait_until(lambda: api.post(V3, wave(seed=0)).status != 503)
    finish(api, ask(api, seed=0))


def give_word(host: Served) -> None:
    """From now on its prompts that are HELD end."""
    assert Api(host.url).post("/word").status == 200


def read_store(pool: LocalPool, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of the pool's job store."""
    with sqlite3.connect(pool.folder / "jobs.sqlite", timeout=30) as database:
        return database.execute(query, values).fetchall()


def wait_for_messages(pool: LocalPool, jobs: list[dict[str, Any]]) -> None:
    """Until the broker has a message of each job, so that only its order decides who is next."""
    ids = {job["id"] for job in jobs}
    told = "SELECT id FROM redux_runs WHERE published IS NOT NULL"
    wait_until(lambda: ids <= {id for (id,) in read_store(pool, told)})
