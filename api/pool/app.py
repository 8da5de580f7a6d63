"""The Celery application: what travels between gateways and workers, and how it is kept from being lost.

A message is the id of a job, as JSON, and nothing else: no key, no picture, no prompt. What is to be done is read from
the job store, so a stranger's message can at most name a job that is waiting anyway. Messages and queues lie on the
broker's disk; a publisher waits until the broker says so, and a worker acknowledges when the job is answered.
"""

from __future__ import annotations

from typing import Any

from amqp.exceptions import AMQPError
from celery import Celery
from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError

from .settings import GRACE_SECONDS, PoolSettings

TASK = "redux.run"
EXCHANGE = "redux"
TOP_PRIORITY = 10
CONFIRM_SECONDS = 5.0
RETRY_SECONDS = 1
BROKER_ERRORS = (OSError, AMQPError, KombuError)
"""What a broker that is away, or cut off, shows itself by."""


def make_app(settings: PoolSettings, publishes_only: bool = False) -> Celery:
    """Args: `publishes_only` is for gateways, whose idle connections have nobody who could beat for them."""
    app = Celery("redux", set_as_current=False)
    app.amqp.Connection = PromptConnection
    app.conf.update(
        broker_url=settings.broker_url,
        broker_use_ssl=settings.tls,
        broker_heartbeat=0 if publishes_only else max(2, round(settings.lease_seconds)),
        broker_connection_timeout=4,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=1,
        broker_transport_options=_transport(publishes_only),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=settings.job_seconds + GRACE_SECONDS,
        task_create_missing_queues=False,
        task_queues=[],
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


class PromptConnection(Connection):
    """Asks a broker that is away once a second; kombu's own pauses grow to half a minute, and a broker that comes and
    goes is hardly ever met by them."""

    def _ensure_connection(self, *args: Any, **options: Any) -> Any:
        pauses = {"interval_start": RETRY_SECONDS, "interval_step": 0, "interval_max": RETRY_SECONDS}
        return super()._ensure_connection(*args, **{**options, **pauses})


def make_queue(settings: PoolSettings, name: str, preference: int = 0) -> Queue:
    """The queue of one capability. Of several workers that are free, the broker takes one of the highest preference."""
    arguments = {"x-max-priority": TOP_PRIORITY, "x-consumer-timeout": int(1000 * settings.consumer_timeout)}
    return Queue(
        name,
        Exchange(EXCHANGE, type="direct", durable=True),
        routing_key=name,
        durable=True,
        queue_arguments=arguments,
        consumer_arguments={"x-priority": preference} if preference else None,
    )


def publish(app: Celery, settings: PoolSettings, id: str, queue: str, priority: int) -> None:
    """Put a job's message on the broker's disk; blocks until it is there.

    Raises:
        BROKER_ERRORS: the broker does not take it now.
    """
    app.send_task(
        TASK,
        [id],
        task_id=id,
        queue=make_queue(settings, queue),
        priority=priority,
        delivery_mode=2,
        confirm_timeout=CONFIRM_SECONDS,
        retry=True,
        retry_policy={"max_retries": 1, "interval_start": 0.0},
    )


def _transport(publishes_only: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"confirm_publish": True}
    if publishes_only:  # a connection that is cut without a word ends in an error
        options |= {"read_timeout": CONFIRM_SECONDS, "write_timeout": CONFIRM_SECONDS}
    return options
