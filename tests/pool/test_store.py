"""The jobs that gateways share: the runner's interface, and what happens when several write at once."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caller import load
from test_once import check_keys

jobs, stores, local = load("jobs"), load("pool.store"), load("job_store")
ORDER = jobs.Order("x.png", 16, 16, 1, 4, 1.0, 1)


def job(index: int, **more: Any) -> Any:
    return jobs.Job(f"{index:032x}", "wavespeed", ORDER, {}, created=1000.0 + index, **more)


@pytest.fixture
def store(database_url: str) -> Iterator[Any]:
    opened = stores.PoolStore(database_url)
    yield opened
    opened.close()


@pytest.fixture(params=["local", "pool"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The store of one machine and the shared one: the runner sees no difference."""
    if request.param == "local":
        opened = local.JobStore(tmp_path / "own.sqlite")
    else:
        opened = stores.PoolStore(f"sqlite:///{tmp_path / 'shared.sqlite'}")
    yield opened
    opened.close()


def check_interface(store: Any) -> None:
    first, second = store.put(job(1)), store.put(job(2, owner="key"))
    assert set(store.live) == {first.id, second.id} and store.get(first.id) == first
    assert store.by_link(second.link) == second and store.by_link("0" * 32) is None and store.get("0" * 32) is None
    store.note_progress(first.id, 2, 4)
    assert (store.live[first.id].step, store.get(first.id).step) == (2, 2)
    running = store.update(first, status=jobs.PROCESSING, started=5.0, attempts=1)
    assert (running.step, running.attempts, store.live[first.id].status) == (2, 1, jobs.PROCESSING)
    ended = store.update(running, status=jobs.COMPLETED, finished=9.0, outputs=("a/b.png",), flags=(False,))
    assert store.get(first.id) == ended and ended.outputs == ("a/b.png",) and set(store.live) == {second.id}
    assert store.update(ended, status=jobs.FAILED, error="late") == ended and store.get(first.id) == ended
    assert [item.id for item in store.old(10.0)] == [first.id] and store.old(9.0) == []
    store.remove(first.id)
    assert store.get(first.id) is None and store.old(10.0) == []


def test_the_runners_interface(either: Any) -> None:
    check_interface(either)


def test_the_runners_interface_on_each_database(store: Any) -> None:
    check_interface(store)


def test_a_key_is_one_jobs_on_each_database(store: Any) -> None:
    check_keys(store)


def test_gateways_sign_with_one_secret(database_url: str) -> None:
    one, two = (stores.PoolStore(database_url) for _ in range(2))
    first, second = (load("pool.secret").SharedSecret(lambda store=store: store.database) for store in (one, two))
    assert first.derive("webhook a") == second.derive("webhook a") != first.derive("webhook b")
    assert len(second.derive("webhook a")) == 32
    one.close(), two.close()


def test_of_many_gateways_one_takes_a_key(database_url: str) -> None:
    taken, gate = list[str](), threading.Barrier(4)

    def take(index: int) -> None:
        own = stores.PoolStore(database_url)
        gate.wait(60)  # one that could not open its store must not keep the others for ever
        try:
            taken.append(own.put(job(index, key="k" * 64)).id)
        except jobs.Repeated as error:
            taken.append(error.job.id)
        own.close()

    threads = [threading.Thread(target=take, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 4 and len(set(taken)) == 1


@pytest.mark.parametrize("kind", ["local", "pool"])
def test_a_new_file_that_another_is_making_is_waited_for(tmp_path: Path, kind: str) -> None:
    """SQLite refuses to switch a file over at once, whatever time-out a connection has, while another has begun to
    write to it: what two gateways, or a gateway and a worker, that start together may meet."""
    path = tmp_path / "jobs.sqlite"
    maker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    maker.execute("BEGIN IMMEDIATE")
    ending = threading.Timer(0.3, maker.execute, ["COMMIT"])
    ending.start()
    opened = stores.PoolStore(f"sqlite:///{path}") if kind == "pool" else local.JobStore(path)
    ending.join()
    check_interface(opened)
    opened.close(), maker.close()


def test_lists_of_a_caller_in_either_order(either: Any) -> None:
    for index in range(7):
        either.put(job(index, owner="a" if index % 2 else ""))
    assert [int(item.id, 16) for item in either.recent("wavespeed", "a")] == [5, 3, 1]
    assert [int(item.id, 16) for item in either.recent("wavespeed", "", (1004.0, f"{4:032x}"))] == [2, 0]
    assert [int(item.id, 16) for item in either.recent("wavespeed", "", (1002.0, f"{2:032x}"), True)] == [4, 6]
    assert list(either.recent("replicate", "a")) == []


def test_long_lists_come_in_pages(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PAGE", 3)
    for index in range(10):
        store.put(job(index // 2 * 2 + index % 2))
    assert [int(item.id, 16) for item in store.recent("wavespeed", "")] == list(range(9, -1, -1))
    assert [int(item.id, 16) for item in store.recent("wavespeed", "", newer=True)] == list(range(10))


def test_a_gateway_sees_what_another_does(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOOK_SECONDS", 0.0)
    one, two = stores.PoolStore(database_url), stores.PoolStore(database_url)
    mine = one.put(job(1))
    assert two.live == {mine.id: mine}
    two.note_progress(mine.id, 3, 4)
    one.update(mine, status=jobs.PROCESSING, attempts=1)
    assert (two.live[mine.id].status, two.live[mine.id].step) == (jobs.PROCESSING, 3)
    ended = two.update(mine, status=jobs.COMPLETED, finished=9.0)
    assert one.live == {} and one.update(mine, status=jobs.FAILED, finished=8.0) == one.get(mine.id)
    assert one.get(mine.id).status == ended.status == jobs.COMPLETED
    two.remove(mine.id)
    assert one.update(mine, status=jobs.FAILED).status == jobs.FAILED and one.get(mine.id) is None
    one.close(), two.close()


def test_no_change_of_many_writers_is_lost(database_url: str) -> None:
    """Each writes a field of its own, in one row, at the same time."""
    first, last = stores.PoolStore(database_url), 20
    mine = first.put(job(1))

    def write(field: str) -> None:
        own = stores.PoolStore(database_url)
        for value in range(1, last + 1):
            own.update(mine, **{field: str(value)})
        own.close()

    fields = ("error", "owner", "request")
    threads = [threading.Thread(target=write, args=(field,)) for field in fields]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = first._rows(load("pool.database").jobs.c.id == mine.id)[0]
    assert row.version == len(fields) * last
    assert [getattr(stores._from_row(row), field) for field in fields] == [str(last)] * 3
    first.close()


def open_at_once(url: str, gate: Any) -> None:
    gate.wait()
    load("pool.store").PoolStore(url).close()


def test_many_processes_may_make_the_tables_at_once(database_url: str) -> None:
    context = multiprocessing.get_context("fork")
    gate = context.Event()
    children = [context.Process(target=open_at_once, args=(database_url, gate)) for _ in range(6)]
    for child in children:
        child.start()
    gate.set()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6


def test_tables_of_a_newer_version_are_refused(database_url: str) -> None:
    store = stores.PoolStore(database_url)
    versions = load("pool.database").versions
    store.database.run(versions.update().values(version=99))
    store.close()
    with pytest.raises(local.StoreError, match="version 99") as refused:
        stores.PoolStore(database_url)
    assert refused.value.status == 503


@pytest.mark.parametrize("url", ["sqlite://", "mysql+pymysql://a/b", "sqlite:///:memory:"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is needed"):
        stores.PoolStore(url)


def test_a_row_of_another_version_fails_alone(store: Any) -> None:
    table = load("pool.database").jobs
    good, bad = store.put(job(1)), store.put(job(2))
    store.database.run(table.update().where(table.c.id == bad.id).values(content="{", version=7))
    time.sleep(stores.LOOK_SECONDS)
    assert set(store.live) == {good.id}
    assert store.get(bad.id).status == jobs.FAILED and "another version" in store.get(bad.id).error
    assert [item.id for item in store.old(bad.created + 1)] == [bad.id]  # it is removed in time, and the good one stays


def test_a_database_that_dies_is_said_and_comes_back(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOOK_SECONDS", 0.0)
    store = stores.PoolStore(postgres.create(f"dies_{os.getpid()}"))
    kept = store.put(job(1))
    postgres.kill()
    try:
        for step in (lambda: store.get(kept.id), lambda: store.live, lambda: store.put(job(2))):
            with pytest.raises(local.StoreError, match="the database does not answer") as refused:
                step()
            assert refused.value.status == 503 and "127.0.0.1" not in str(refused.value)
        with pytest.raises(local.StoreError):
            stores.PoolStore(postgres.url())
    finally:
        postgres.start()
    assert store.live == {kept.id: kept}
    store.close()


def test_a_lock_is_not_waited_for_long(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    databases = load("pool.database")
    monkeypatch.setattr(databases, "ANSWER_SECONDS", 1)
    url = postgres.create(f"locked_{os.getpid()}")
    store, other = stores.PoolStore(url), stores.PoolStore(url)
    kept = store.put(job(1))
    with other.database.transaction() as connection:
        connection.execute(databases.jobs.update().values(vendor="x"))
        began = time.monotonic()
        with pytest.raises(local.StoreError):
            store.update(kept, status=jobs.PROCESSING)
        assert time.monotonic() - began < 60  # the lock is held until this block ends
    assert store.update(kept, status=jobs.PROCESSING).status == jobs.PROCESSING
    store.close(), other.close()
