"""Word of jobs that have moved: it is told at once, and nothing is lost where it is."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from caller import load
from kombu import Producer

from tools.proxy import CUT, Proxy
from tools.rabbitmq import Broker
from tools.server import free_port

news, apps, backends, runners = load("pool.news"), load("pool.app"), load("pool.backend"), load("runner")
jobs, runs, settings, pools = load("jobs"), load("pool.runs"), load("settings"), load("pool.settings")
ORDER = jobs.Order("x.png", 16, 16, 1, 1, 1.0, 1)
DONE = load("backend").Finished(outputs=("outputs/a.png",))
FAR = 240.0
"""Seconds to the next look without word."""
SOON = 60.0


class Scene:
    """A gateway's runner and backend in this process, and the broker's settings of both sides."""

    def __init__(self, folder: Path, address: str, password: str) -> None:
        store, files = f"sqlite:///{folder / 'jobs.sqlite'}", str(folder / "files")
        self.pool = pools.PoolSettings(store, files, broker=address, password=password)
        own = settings.Settings()
        self.backend = backends.PoolBackend(own, self.pool, folder / "scratch")
        self.runner = runners.Runner(own, self.backend, self.backend.open_store)
        self.teller = news.Teller(apps.make_app(self.pool))

    async def __aenter__(self) -> Scene:
        await self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop()
        await self.backend.close()

    async def listens(self, is_so: bool = True) -> None:
        end = time.monotonic() + 120
        while self.backend.listener.listens is not is_so:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)

    def put(self) -> Any:
        job = jobs.Job(uuid.uuid4().hex, "wavespeed", ORDER, {})
        self.runner.store.put(job)
        return job

    async def work(self, job: Any, tells: bool = True) -> float:
        """As a worker does. Seconds until a caller who waits knows of the end."""
        own = runs.Runs(self.runner.store.database, 6.0, *([self.teller.tell] if tells else []))
        waiter = asyncio.create_task(self.runner.wait(job, FAR / 2))
        claim = await asyncio.to_thread(own.claim, job.id, "a")
        assert await asyncio.to_thread(own.finish, job.id, claim.attempt, DONE)
        began = time.monotonic()
        assert (await waiter).status == jobs.COMPLETED
        return time.monotonic() - began


def play(act: Callable[[Scene], Awaitable[None]], folder: Path, address: str, password: str) -> None:
    async def scene() -> None:
        async with Scene(folder, address, password) as made:
            await act(made)

    asyncio.run(scene())


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (backends, runners):
        monkeypatch.setattr(module, "LOOK_SECONDS", FAR)


@pytest.mark.usefixtures("far")
def test_an_end_is_told_at_once(tmp_path: Path, broker: Broker) -> None:
    """Of two gateways' callers too, and after a broken connection; odd messages do no harm."""

    async def act(scene: Scene) -> None:
        await scene.listens()
        assert await scene.work(scene.put()) < SOON
        with scene.teller.app.connection_for_write() as connection:
            producer = Producer(connection, exchange=news.MOVED)
            for body in ("x", ["y"], None, {"id": 1}, "0" * 32):
                producer.publish(body, serializer="json")
            producer.publish(b"\x80", content_type="application/x-python-serialize", content_encoding="binary")
        assert await scene.work(scene.put()) < SOON
        proxy.fault(CUT)
        await scene.listens(False)
        proxy.heal()
        await scene.listens()
        scene.teller = news.Teller(scene.teller.app)  # the other's connection is cut as well, which its next word finds
        assert await scene.work(scene.put()) < SOON

    with Proxy(broker.port) as proxy:
        play(act, tmp_path, broker.address.replace(str(broker.port), str(proxy.port)), broker.password)


@pytest.mark.usefixtures("far")
def test_the_end_that_another_gateway_has_written_is_told(tmp_path: Path, broker: Broker) -> None:
    async def act(scene: Scene) -> None:
        await scene.listens()
        async with Scene(tmp_path, broker.address, broker.password) as other:
            await other.listens()
            job = scene.put()
            other.runner.store.refresh()
            both = await asyncio.gather(other.runner.wait(job, FAR / 2), scene.work(job))
            assert both[0].status == jobs.COMPLETED and both[1] < SOON
            canceled = scene.put()
            other.runner.store.refresh()
            waiter = asyncio.create_task(other.runner.wait(canceled, FAR / 2))
            await asyncio.sleep(0.1)
            await scene.runner.cancel(canceled)
            assert (await asyncio.wait_for(waiter, SOON)).status == jobs.CANCELED

    play(act, tmp_path, broker.address, broker.password)


def test_an_end_that_came_by_the_store_is_told(tmp_path: Path) -> None:
    """Another gateway has written it, and this one's picture of the store was renewed for another reason."""

    async def act(scene: Scene) -> None:
        job = scene.put()
        waiter = asyncio.create_task(scene.runner.wait(job, FAR / 2))
        await asyncio.sleep(0)
        other = load("pool.store").PoolStore(scene.pool.store)
        other.update(other.get(job.id), status=jobs.COMPLETED, finished=time.time())
        scene.runner.store.refresh()
        assert (await asyncio.wait_for(waiter, SOON)).status == jobs.COMPLETED
        other.close()

    play(act, tmp_path, f"amqp://redux@127.0.0.1:{free_port()}/", "x")


@pytest.mark.usefixtures("far")
def test_an_end_that_another_gateway_has_written_before_all_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no run tells of it, and this gateway's picture of the store is too young to be renewed by itself."""

    async def act(scene: Scene) -> None:
        job = scene.put()
        waiter = asyncio.create_task(scene.runner.wait(job, FAR / 2))
        await asyncio.sleep(0)
        other = load("pool.store").PoolStore(scene.pool.store)
        own = runs.Runs(other.database, 6.0)
        assert own.finish(job.id, own.claim(job.id, "a").attempt, DONE)
        other.update(other.get(job.id), status=jobs.COMPLETED, finished=time.time())
        assert (await asyncio.wait_for(waiter, SOON)).status == jobs.COMPLETED
        other.close()

    monkeypatch.setattr(load("pool.store"), "LOOK_SECONDS", FAR)
    play(act, tmp_path, f"amqp://redux@127.0.0.1:{free_port()}/", "x")


@pytest.mark.usefixtures("far")
def test_without_a_broker_the_store_is_looked_at_as_often_as_before(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        assert await scene.work(scene.put()) < SOON
        assert not scene.backend.listener.listens

    play(act, tmp_path, f"amqp://redux@127.0.0.1:{free_port()}/", "x")


def test_a_lost_word_costs_a_moment(tmp_path: Path, broker: Broker) -> None:
    """Also where there is word of other jobs all the time."""

    async def act(scene: Scene) -> None:
        await scene.listens()
        assert await scene.work(scene.put(), tells=False) < SOON

        async def chatter() -> None:
            while True:
                scene.teller.tell("0" * 32)
                await asyncio.sleep(0.05)

        task = asyncio.create_task(chatter())
        assert await scene.work(scene.put(), tells=False) < SOON
        task.cancel()
        assert scene.backend.listener.listens

    play(act, tmp_path, broker.address, broker.password)
