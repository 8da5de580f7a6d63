"""Hosts that die, jobs that kill them, jobs that take too long, and callers who change their minds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from caller import REPLICATE, Api, prediction
from scenes import api_of, ask, expected, finish, give_word, status, wait_for_hosts, wait_until

from tools.pool_parts import LocalPool, Served
from tools.simulated_host import DEADLY, HELD, SLOW


@pytest.fixture
def one(module_pool: LocalPool) -> LocalPool:
    """A pool with one host, which waits for jobs; each test leaves that host and its worker as it finds them."""
    if not module_pool.gateways:
        module_pool.add_host("a", 0.3)
        module_pool.add_gateway()
    wait_for_hosts(api_of(module_pool))
    return module_pool


@contextmanager
def revived(host: Served) -> Iterator[list[int]]:
    """As a service manager does: started again whenever it ends; the list has one entry for each time."""
    over, starts = threading.Event(), list[int]()

    def watch() -> None:
        while not over.wait(0.1):
            if not host.alive:
                host.start()
                starts.append(len(starts))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield starts
    finally:
        over.set()
        thread.join()


def test_a_poisoned_job(one: LocalPool) -> None:
    """After two hosts have died on it, it fails and says so; jobs behind it are done."""
    api = api_of(one)
    with revived(one.hosts["a"]) as starts:
        poisoned, after = ask(api, prompt=DEADLY), ask(api, 21)
        done = finish(api, poisoned)
        assert done["status"] == "failed" and "a host died 2 times" in done["error"], done
        assert finish(api, after)["status"] == "completed"
        assert len(starts) == 2


def test_cancel(one: LocalPool) -> None:
    """Of a job that runs: just that prompt is interrupted. Of one that waits: it never begins."""
    api = api_of(one)
    running = api.post(REPLICATE, prediction(prompt=SLOW)).json
    path = f"/v1/predictions/{running['id']}"
    wait_until(lambda: api.get(path).json["status"] == "processing")
    waiting, kept = api.post(REPLICATE, prediction(prompt=SLOW)).json, ask(api, 31)
    assert api.post(f"/v1/predictions/{waiting['id']}/cancel").json["status"] == "canceled"
    api.post(f"/v1/predictions/{running['id']}/cancel")
    assert api.finish(path)["status"] == "canceled"
    done = finish(api, kept)
    assert done["status"] == "completed" and api.get(done["outputs"][0]).body == expected(31)
    assert api.get(f"/v1/predictions/{waiting['id']}").json["status"] == "canceled"


@pytest.mark.parametrize("meanwhile", ["ends", "goes on"])
def test_a_killed_worker(one: LocalPool, meanwhile: str) -> None:
    """Its host's prompt ends or goes on; whoever gets the job again has its picture, and nobody's prompt is left."""
    one.hosts["a"].kill()  # one that was given the word holds nothing any more
    one.hosts["a"].start()
    one.hosts["a"].wait()
    api, host = api_of(one), Api(one.hosts["a"].url)
    job = ask(api, 41, prompt=HELD)
    wait_until(lambda: host.get("/queue").json["queue_running"])
    ((*_, first),) = [item[:2] for item in host.get("/queue").json["queue_running"]]
    one.workers["a"].kill()
    if meanwhile == "ends":
        give_word(one.hosts["a"])
        wait_until(lambda: not host.get("/queue").json["queue_running"])
    one.workers["a"].start()
    if meanwhile == "goes on":
        wait_until(lambda: first in host.get(f"/history/{first}").json)  # the stray one is interrupted
        give_word(one.hosts["a"])
    done = finish(api, job)
    assert done["status"] == "completed" and api.get(done["outputs"][0]).body == expected(41, prompt=HELD)
    assert host.get("/queue").json == {"queue_running": [], "queue_pending": []}


def test_a_lost_host(one: LocalPool) -> None:
    """Its job is done by another one; the worker beside it says so, takes nothing, and takes again when it is back."""
    api = api_of(one)
    job = ask(api, prompt=SLOW)
    wait_until(lambda: status(api, job) == "processing")
    one.hosts["a"].kill()
    one.add_host("b", 0.05, worker_environ={"REDUX_POOL_JOB_SECONDS": "8"})
    after = [ask(api, seed) for seed in (11, 12)]
    for seed, other in zip((11, 12), after, strict=True):
        done = finish(api, other)
        assert done["status"] == "completed" and api.get(done["outputs"][0]).body == expected(seed)
    # The first one takes for ever anywhere, and ends by its time, on the other host.
    assert "longer than 8 s" in finish(api, job)["error"]
    wait_until(lambda: "the host is away: " in _log(one) and f"the host of job {job['id']} is lost" in _log(one))
    one.workers["b"].kill()
    one.hosts["a"].start()
    one.hosts["a"].wait()
    assert finish(api, ask(api, 13))["status"] == "completed"


def _log(pool: LocalPool) -> str:
    return (pool.folder / "worker-a.log").read_text("utf-8")
