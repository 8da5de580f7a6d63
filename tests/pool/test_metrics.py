"""What Prometheus, people and load balancers are told: read by Prometheus' own parser, from a store and from a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from caller import V3, Api, load, wave
from prometheus_client.parser import text_string_to_metric_families
from scenes import api_of, wait_for_hosts, wait_until

from tools.pool_parts import LocalPool

jobs, stores, runs, backends = load("jobs"), load("pool.store"), load("pool.runs"), load("backend")
metrics, healths, hosts = load("pool.metrics"), load("pool.health"), load("pool.hosts")
ORDER = jobs.Order("x.png", 16, 16, 1, 4, 1.0, 1)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert (key := (sample.name, tuple(sorted(sample.labels.items())))) not in found, f"{key} twice"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, tuple(sorted(labels.items())))]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    opened = stores.PoolStore(f"sqlite:///{tmp_path / 'jobs.sqlite'}", "q")
    yield opened
    opened.close()


class Pool:
    """A store with a gateway's three routes over it; `broken` are the parts that do not work."""

    def __init__(self, store: Any) -> None:
        self.store, self.runs, self.broken = store, runs.Runs(store.database, 1000.0), set[str]()
        self.reports = [hosts.HostReport("a", hosts.READY), hosts.HostReport("b", hosts.AWAY, problem="no answer")]
        self.health = healths.Health(self._runs, lambda: self.reports, self._check("files"), self._check("broker"))

    def _runs(self) -> Any:
        if "store" in self.broken:
            raise load("job_store").StoreError("it is away")
        return self.runs

    def _check(self, name: str) -> Callable[[], None]:
        def check() -> None:
            if name in self.broken:
                raise OSError(28, "No space left on device")

        return check

    def ask(self, *paths: str, keys: tuple[str, ...] = (), **headers: str) -> list[tuple[int, Any]]:
        async def run() -> list[tuple[int, Any]]:
            app = web.Application()
            metrics.mount_metrics(app, self.health, keys)
            async with TestClient(TestServer(app)) as client:
                answers = [await client.get(path, headers=headers) for path in paths]
                return [(answer.status, await answer.text()) for answer in answers]

        self.health.at, self.health.lock = -1e9, asyncio.Lock()
        return asyncio.run(run())

    def put(self, index: int) -> str:
        job = jobs.Job(f"{index:032x}", "wavespeed", ORDER, {})
        self.store.put(job)
        return str(job.id)


@pytest.fixture
def told(store: Any) -> Pool:
    return Pool(store)


def test_the_numbers_of_a_pool(told: Pool) -> None:
    began = time.time()
    waits, going, good, bad, again = (told.put(index) for index in range(5))
    for id in (going, good, bad, again):
        told.runs.claim(id, "a")
    told.runs.finish(good, 1, backends.Finished(outputs=("a.png",)))
    told.runs.finish(bad, 1, backends.Finished(error="no"))
    told.runs.release(again, 1, died=True)
    time.sleep(0.2)
    told.runs.beat(going, 1)
    ((status, text),) = told.ask("/metrics")
    found = read(text)
    assert status == 200 and value(found, "redux_pool_up") == 1
    assert value(found, "redux_pool_jobs", queue="q", state="queued") == 2
    assert value(found, "redux_pool_jobs", queue="q", state="running") == 1
    passed = time.time() - began
    assert 0.2 <= value(found, "redux_pool_oldest_seconds", queue="q", state="queued") <= passed
    assert value(found, "redux_pool_jobs_ended_total", host="a", result="completed") == 1
    assert value(found, "redux_pool_jobs_ended_total", host="a", result="failed") == 1
    assert value(found, "redux_pool_retries_total", host="a", cause="host died") == 1
    assert (value(found, "redux_pool_host_up", host="a"), value(found, "redux_pool_host_busy", host="a")) == (1, 1)
    assert (value(found, "redux_pool_host_up", host="b"), value(found, "redux_pool_host_busy", host="b")) == (0, 0)
    assert value(found, "redux_pool_wait_seconds_count", host="a") == 2
    assert value(found, "redux_pool_run_seconds_bucket", host="a", le="+Inf") == 2
    assert 0.2 <= value(found, "redux_pool_busy_seconds_total", host="a") <= 4 * passed  # of four jobs


def test_busy_seconds_never_go_back(told: Pool) -> None:
    """Whatever becomes of an attempt: Prometheus would take less for a new start, and count it once more."""
    told.runs.lease = 0.1
    id, seen = told.put(1), [0.0]

    def look() -> None:
        found = read(told.ask("/metrics")[0][1])
        seen.append(value(found, "redux_pool_busy_seconds_total", host="a"))

    for attempt, step in enumerate(
        [lambda n: None, lambda n: told.runs.release(id, n, died=False), lambda n: told.runs.finish(id, n, DONE)], 1
    ):
        assert told.runs.claim(id, "a").attempt == attempt
        time.sleep(0.05)
        told.runs.beat(id, attempt)
        look()
        step(attempt)
        look()
        time.sleep(0.1)
    assert seen == sorted(seen) and seen[-1] >= 0.15


DONE = backends.Finished(outputs=("a.png",))


def test_histograms_are_cumulated(told: Pool) -> None:
    for index, seconds in enumerate([0.05, 0.3, 0.3, 40.0, 9999.0]):
        told.runs.tallies.ended("a" if index % 2 else "b", "completed", seconds, seconds)
    found = read(told.ask("/metrics")[0][1])
    for name, bounds in (("wait", load("pool.tallies").WAIT_SECONDS), ("run", load("pool.tallies").RUN_SECONDS)):
        for host in "ab":
            counts = [
                value(found, f"redux_pool_{name}_seconds_bucket", host=host, le=le)
                for le in [*(str(bound) for bound in bounds), "+Inf"]
            ]
            assert counts == sorted(counts) and counts[-1] == value(
                found, f"redux_pool_{name}_seconds_count", host=host
            )
    total = sum(value(found, "redux_pool_wait_seconds_sum", host=host) for host in "ab")
    assert total == pytest.approx(0.05 + 0.6 + 40 + 9999)


@pytest.mark.parametrize(
    ("broken", "status", "ready"),
    [("", "degraded", 200), ("broker", "degraded", 200), ("files", "down", 503), ("store", "down", 503)],
)
def test_health_and_readiness(told: Pool, broken: str, status: str, ready: int) -> None:
    told.put(1)
    told.broken = {broken} - {""}
    (code, text), (readiness, _), (_, numbers) = told.ask("/health", "/ready", "/metrics")
    answer = load("schema").parse_json(text.encode())
    assert (code, answer["status"], readiness) == (200, status, ready)
    wrong = {name for name, said in answer["parts"].items() if said != "ok"}
    assert wrong == told.broken and set(answer["parts"]) == {"store", "files", "broker"}
    assert value(read(numbers), "redux_pool_up") == (0 if broken == "store" else 1)
    if broken != "store":
        assert [(host["name"], host["state"], host["problem"]) for host in answer["hosts"]] == [
            ("a", "ready", ""),
            ("b", "host away", "no answer"),
        ]
        assert [(item["state"], item["count"]) for item in answer["jobs"]] == [("queued", 1)]


def test_all_is_well(told: Pool) -> None:
    told.reports = told.reports[:1]
    ((_, text),) = told.ask("/health")
    assert load("schema").parse_json(text.encode())["status"] == "ok"


def test_who_may_ask(told: Pool) -> None:
    paths, keys = ("/metrics", "/health", "/ready"), ("secret",)
    assert [status for status, _ in told.ask(*paths, keys=keys)] == [401, 401, 200]
    assert [status for status, _ in told.ask(*paths, keys=keys, Authorization="Bearer secret")] == [200] * 3
    assert [status for status, _ in told.ask(*paths, **{"X-Forwarded-For": "1.2.3.4"})] == [403, 403, 200]


def test_requests_are_measured_by_route(told: Pool) -> None:
    ((_, _), (_, _), (_, text)) = told.ask("/nothing/here", "/ready", "/metrics")
    found = read(text)
    name = "redux_gateway_request_seconds_count"
    assert value(found, name, method="GET", route="/ready", status="200") == 1
    assert value(found, name, method="GET", route="none", status="404") == 1
    assert "/nothing" not in text


def test_a_real_gateway_tells_of_its_pool(pool: LocalPool) -> None:
    pool.add_host("a")
    pool.add_gateway()
    wait_for_hosts(api := api_of(pool))
    for _ in range(3):
        api.finish(api.post(V3, wave()).json["data"]["urls"]["get"])
    completed = {"host": "worker-a", "result": "completed"}  # told as of a moment ago
    wait_until(lambda: value(metrics_of(api), "redux_pool_jobs_ended_total", **completed) >= 5)  # with those of before
    assert value(metrics_of(api), "redux_pool_host_up", host="worker-a") == 1
    answer = api.get("/health").json
    assert answer["status"] == "ok" and answer["parts"] == {"store": "ok", "files": "ok", "broker": "ok"}
    pool.hosts["a"].kill()
    wait_until(lambda: api.get("/health").json["hosts"][0]["state"] == hosts.AWAY)
    assert api.get("/health").json["status"] == "degraded" and api.get("/ready").status == 200
    assert value(metrics_of(api), "redux_pool_host_up", host="worker-a") == 0


def metrics_of(api: Api) -> Samples:
    return read(api.get("/metrics").body.decode())
