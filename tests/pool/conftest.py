"""The endpoints over several machines: real databases, file stores and brokers, all of the tests' own.

Run this tier alone (`pytest tests/pool`).
"""

from __future__ import annotations

import random
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "api"), str(HERE.parents[1])]

import postgres as servers  # noqa: E402

from tools import rabbitmq  # noqa: E402
from tools.pool_parts import LocalPool  # noqa: E402

QUICK = {"REDUX_POOL_LEASE_SECONDS": "2", "REDUX_POOL_HOST_SECONDS": "2"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    programs = servers.find_programs()
    if programs is None:
        pytest.skip(servers.MISSING)
    server = servers.Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    server: servers.Postgres = request.getfixturevalue("postgres")
    return server.create(f"jobs_{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rabbitmq.Broker]:
    """A RabbitMQ for the tests that do not harm it."""
    if rabbitmq.find_program() is None:
        pytest.skip(rabbitmq.MISSING)
    with rabbitmq.Broker(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture
def pool(tmp_path: Path, broker: rabbitmq.Broker) -> Iterator[LocalPool]:
    """Nothing runs in it yet."""
    yield from _pool(tmp_path, broker)


@pytest.fixture(scope="module")
def module_pool(tmp_path_factory: pytest.TempPathFactory, broker: rabbitmq.Broker) -> Iterator[LocalPool]:
    """The same for all tests of a file."""
    yield from _pool(tmp_path_factory.mktemp("pool"), broker)


def _pool(folder: Path, broker: rabbitmq.Broker) -> Iterator[LocalPool]:
    # The threshold goes into the queue's name, so that no other test's jobs lie in it.
    made = LocalPool(folder, broker, {"safety_threshold": random.random()}, QUICK)
    try:
        yield made
    finally:
        made.stop()
