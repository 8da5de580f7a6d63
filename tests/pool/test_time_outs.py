"""The time-outs of a job follow one another: its own, its process's, the broker's."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.pool import pack
from tools.rabbitmq import Broker

settings, app = pack.load("settings"), pack.load("app")
PLACES = {"REDUX_POOL_STORE": "sqlite:////tmp/x.sqlite", "REDUX_POOL_FILES": "/tmp/x"}


@pytest.mark.parametrize("seconds", [1, 600, 86400])
def test_each_is_longer_than_the_one_before(seconds: int) -> None:
    pool = settings.load_pool_settings({**PLACES, "REDUX_POOL_JOB_SECONDS": str(seconds)})
    limit = app.make_app(pool).conf.task_time_limit
    assert pool.job_seconds == seconds < limit < pool.consumer_timeout
    arguments = app.make_queue(pool, "redux.x").queue_arguments
    assert arguments["x-consumer-timeout"] == 1000 * pool.consumer_timeout


def test_the_broker_of_make_pool_waits_long_enough(tmp_path: Path) -> None:
    assert Broker(tmp_path).consumer_timeout > settings.load_pool_settings(PLACES).consumer_timeout


def test_a_password_in_an_address_is_refused_and_none_is_shown() -> None:
    with pytest.raises(ValueError, match="REDUX_POOL_PASSWORD"):
        settings.load_pool_settings({**PLACES, "REDUX_POOL_BROKER": "amqp://me:word@127.0.0.1/"})
    pool = settings.load_pool_settings({**PLACES, "REDUX_POOL_PASSWORD": "a/word"})
    assert "word" not in repr(pool) and pool.broker_url == "amqp://guest:a%2Fword@127.0.0.1:5672/"
