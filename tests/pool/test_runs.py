"""Who computes a job: claims of many workers at once, silence, deaths, cancels, and one answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from caller import load
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

jobs, stores, runs, backends = load("jobs"), load("pool.store"), load("pool.runs"), load("backend")
ORDER = jobs.Order("x.png", 16, 16, 1, 4, 1.0, 1)
DONE = backends.Finished(outputs=("outputs/a.png",), flags=(False,))
LEASE = 0.3


class Clock:
    """The databases' clock in these tests: it moves when a test says so, however slow the machine is."""

    def __init__(self) -> None:
        self.seconds = time.time()

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    now = property(lambda _: sa.bindparam(None, callable_=lambda: made.seconds, type_=sa.Double, unique=True))
    monkeypatch.setattr(load("pool.database").Database, "now", now)
    return made


@pytest.fixture
def store(database_url: str) -> Iterator[Any]:
    opened = stores.PoolStore(database_url)
    yield opened
    opened.close()


@pytest.fixture
def pool(store: Any) -> Any:
    return runs.Runs(store.database, LEASE)


def put(store: Any, index: int = 1) -> str:
    job = jobs.Job(f"{index:032x}", "wavespeed", ORDER, {}, steps=4)
    store.put(job, queue="big")
    return str(job.id)


def state(pool: Any, id: str) -> Any:
    return pool.get([id])[id].state


def test_the_way_of_a_run(store: Any, pool: Any) -> None:
    began = time.time()
    id = put(store)
    run = pool.get([id, "0" * 32])[id]
    assert (run.state, run.queue, run.steps, run.published, run.attempt) == (backends.QUEUED, "big", 4, None, 0)
    assert began - 1 <= run.created <= time.time() + 1
    claim = pool.claim(id, "one")
    assert claim and (claim.attempt, claim.deaths, claim.vanished) == (1, 0, 0)
    assert pool.beat(id, 1, 3, 4) == runs.KEPT
    run = pool.get([id])[id]
    assert (run.state, run.worker, run.step) == (backends.RUNNING, "one", 3) and run.started >= run.created
    assert pool.finish(id, 1, DONE)
    run = pool.get([id])[id]
    assert run.state == backends.Finished(DONE.outputs, DONE.flags, started=run.started) and run.ended >= run.started
    assert pool.claim(id, "two").verdict == runs.OVER and pool.beat(id, 1) == runs.LOST
    store.remove(id)
    assert pool.get([id]) == {} and pool.claim(id, "two").verdict == runs.OVER and not pool.finish(id, 1, DONE)


def test_a_gateway_reads_only_what_has_moved(store: Any, pool: Any) -> None:
    waits, going, over, told = (put(store, index) for index in range(4))
    for id in (going, over, told):
        pool.claim(id, "one")
    pool.finish(over, 1, DONE), pool.finish(told, 1, DONE)
    store.update(store.get(told), status=jobs.COMPLETED, finished=time.time())
    assert {id: run.state for id, run in pool.moved().items()} == {
        going: backends.RUNNING,
        over: state(pool, over),
    } and waits in store.live


def test_one_of_many_workers_gets_it(store: Any, pool: Any, database_url: str) -> None:
    ids, granted, gate = [put(store, index) for index in range(8)], Counter[str](), threading.Barrier(4)

    def work(name: str) -> None:
        own = runs.Runs(load("pool.database").Database(database_url), 30.0)
        gate.wait()
        for id in ids:
            claim = own.claim(id, name)
            granted[id] += bool(claim)
            assert claim or (claim.verdict == runs.HELD and 0 < claim.seconds <= 30)
        own.database.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert granted == dict.fromkeys(ids, 1)
    assert all(run.attempt == 1 for run in pool.get(ids).values())


def test_one_answer_counts_and_its_worker_may_ask_again(store: Any, pool: Any, clock: Clock) -> None:
    id = put(store)
    assert pool.claim(id, "one").attempt == 1
    clock.sleep(LEASE + 0.01)
    second = pool.claim(id, "two")
    assert (second.attempt, second.vanished) == (2, 1)
    assert pool.beat(id, 1) == runs.LOST  # the first is alive after all: it stops, or is quicker
    late = backends.Finished(error="too late")
    assert [pool.finish(id, 1, DONE), pool.finish(id, 2, late), pool.finish(id, 1, DONE)] == [True, False, True]
    assert state(pool, id).outputs == DONE.outputs and state(pool, id).error == ""


def test_a_silent_worker_loses_its_run_and_a_beating_one_does_not(store: Any, pool: Any, clock: Clock) -> None:
    id = put(store)
    pool.claim(id, "one")
    for _ in range(10):
        assert pool.beat(id, 1) == runs.KEPT
        assert pool.claim(id, "two").verdict == runs.HELD
        clock.sleep(LEASE / 5)
    clock.sleep(0.79 * LEASE)
    assert pool.claim(id, "two").verdict == runs.HELD
    clock.sleep(0.02 * LEASE)
    assert pool.claim(id, "two")


def test_a_worker_that_starts_again_has_its_own_run_at_once(store: Any, pool: Any) -> None:
    id = put(store)
    pool.claim(id, "one")
    again = pool.claim(id, "one")
    assert (again.attempt, again.vanished) == (2, 1) and pool.beat(id, 1) == runs.LOST


def test_what_is_given_back_is_granted_at_once_and_deaths_are_counted(store: Any, pool: Any) -> None:
    id = put(store)
    pool.claim(id, "one")
    assert pool.release(id, 1, died=True) and not pool.release(id, 1, died=True)
    assert state(pool, id) == backends.QUEUED
    assert (pool.claim(id, "two").deaths, pool.release(id, 2, died=False)) == (1, True)
    last = pool.claim(id, "two")
    assert (last.attempt, last.deaths, last.vanished) == (3, 1, 0)


def test_cancel_of_what_waits_runs_and_is_over(store: Any, pool: Any) -> None:
    waits, going, over = (put(store, index) for index in range(3))
    pool.claim(going, "one"), pool.claim(over, "two"), pool.finish(over, 1, DONE)
    assert [pool.cancel(waits), pool.cancel(going), pool.cancel(over), pool.cancel("0" * 32)] == [True] + [False] * 3
    assert state(pool, waits).canceled and state(pool, over).outputs and pool.claim(waits, "x").verdict == runs.OVER
    assert pool.beat(going, 1) == runs.CANCELED and state(pool, going) == backends.RUNNING
    assert pool.finish(going, 1, backends.Finished(canceled=True)) and state(pool, going).canceled


@pytest.mark.parametrize("end", ["silence", "given back", "started again"])
def test_a_canceled_run_ends_whatever_becomes_of_its_worker(store: Any, pool: Any, clock: Clock, end: str) -> None:
    id = put(store)
    pool.claim(id, "one")
    pool.cancel(id)
    assert pool.claim(id, "two").verdict == runs.HELD
    if end == "given back":
        pool.release(id, 1, died=True)
    elif end == "silence":
        clock.sleep(LEASE + 0.01)
    assert pool.claim(id, "one" if end == "started again" else "two").verdict == runs.OVER
    assert state(pool, id).canceled


def test_a_cancel_that_is_cut_short_is_ended_by_the_next_message(store: Any, pool: Any) -> None:
    id = put(store)
    table = load("pool.database").runs
    store.database.run(table.update().where(table.c.id == id).values(canceled=True))
    assert pool.claim(id, "one").verdict == runs.OVER and state(pool, id).canceled


def test_what_has_happened_is_counted(store: Any, pool: Any, clock: Clock) -> None:
    good, bad, waits, given, silent = (put(store, index) for index in range(5))
    for id in (good, bad, given, silent):
        assert pool.claim(id, "one")
    pool.finish(good, 1, DONE), pool.finish(bad, 1, backends.Finished(error="no")), pool.cancel(waits)
    pool.finish(good, 1, DONE)  # said twice, counted once
    pool.release(given, 1, died=True), pool.claim(given, "two"), pool.release(given, 2, died=False)
    clock.sleep(LEASE + 0.01)
    pool.claim(silent, "two"), pool.finish(silent, 2, DONE)
    told = {(host, name, label): value for host, name, label, value in pool.tallies.read()}
    ended = {key[0::2]: value for key, value in told.items() if key[1] == "ended"}
    assert ended == {("one", "completed"): 1, ("one", "failed"): 1, ("", "canceled"): 1, ("two", "completed"): 1}
    retried = {key[0::2]: value for key, value in told.items() if key[1] == "retried"}
    assert retried == {("one", "host died"): 1, ("two", "given back"): 1, ("one", "worker silent"): 1}
    assert sum(value for key, value in told.items() if key[1] == "run") == 3
    waited = {key[2]: value for key, value in told.items() if key[:2] == ("two", "wait")}
    assert list(waited.values()) == [1] and told[("two", "wait_sum", "")] >= LEASE


def test_what_needs_a_message(store: Any, pool: Any, clock: Clock) -> None:
    ids = [put(store, index) for index in range(4)]
    unpublished, published, silent, beating = ids
    assert pool.unpublished(after=60, again=60) == []
    for id in (published, silent, beating):
        pool.note_published([id])
    pool.claim(silent, "one")
    for _ in range(4):
        clock.sleep(LEASE / 2 + 0.02)
        pool.claim(beating, "two")
    assert [id for id, _ in pool.unpublished(after=60, again=60)] == [silent]
    assert {id for id, _ in pool.unpublished(after=0.1, again=60)} == {unpublished, silent}
    assert {id for id, _ in pool.unpublished(after=0.1, again=0.1)} == {unpublished, published, silent}
    assert pool.unpublished(after=0.1, again=0.1, limit=1) == [(unpublished, "big")]


class Deliveries(RuleBasedStateMachine):
    """Any order of claims, deaths, silences, cancels and answers, against the few sentences that must hold."""

    make: Callable[[], tuple[Any, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.store, self.pool = self.make()
        Deliveries.count += 1
        self.id = put(self.store, Deliveries.count)
        self.attempts: list[int] = []
        self.answered: list[int] = []
        self.canceled = False
        self.deaths = 0

    count = 0

    @rule(worker=st.sampled_from("abc"), silent=st.booleans())
    def claim(self, worker: str, silent: bool) -> None:
        self.pool.lease = 0.0 if silent else 1000.0
        claim = self.pool.claim(self.id, worker)
        if claim:
            assert not self.answered and not self.canceled and claim.deaths == self.deaths
            assert not self.attempts or claim.attempt == self.attempts[-1] + 1
            self.attempts.append(claim.attempt)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), died=st.booleans())
    def release(self, data: Any, died: bool) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        if self.pool.release(self.id, attempt, died):
            assert attempt == self.attempts[-1] and not self.answered
            self.deaths += died

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        if self.pool.finish(self.id, attempt, backends.Finished(outputs=(f"{attempt}.png",))):
            self.answered.append(attempt)

    @rule()
    def cancel(self) -> None:
        self.pool.cancel(self.id)
        self.canceled = True

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def beat(self, data: Any) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        if self.pool.beat(self.id, attempt) != runs.LOST:
            assert attempt == self.attempts[-1] and not self.answered

    @invariant()
    def one_answer(self) -> None:
        found = state(self.pool, self.id)
        assert len(set(self.answered)) <= 1
        if self.answered:
            assert found.outputs == (f"{self.answered[0]}.png",)
        elif isinstance(found, backends.Finished):
            assert found.canceled and self.canceled

    def teardown(self) -> None:
        """Whatever came before, one more message brings it to its end."""
        self.pool.lease = 0.0
        claim = self.pool.claim(self.id, "last")
        assert not claim or self.pool.finish(self.id, claim.attempt, DONE)
        assert isinstance(state(self.pool, self.id), backends.Finished)


def test_any_order_of_deliveries(store: Any, pool: Any) -> None:
    Deliveries.make = staticmethod(lambda: (store, pool))
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    limits = settings(max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(Deliveries, settings=limits)
