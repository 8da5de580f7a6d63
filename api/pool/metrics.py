"""`/metrics` for Prometheus, `/health` for people, `/ready` for load balancers, at each gateway.

What is told of the pool is read from its database when it is asked for, so every gateway tells the same, and it does
not matter which of them is asked. What is told of requests is the gateway's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiohttp import web

try:
    from prometheus_client import CollectorRegistry, Histogram, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
    from prometheus_client.registry import Collector
except ImportError as error:  # pragma: no cover
    raise ImportError("The gateway's metrics need prometheus_client; install this pack's extra `pool`.") from error

from ..auth import authorize
from ..errors import ApiError
from .health import Health
from .hosts import READY
from .runs import Runs
from .tallies import BUSY, ENDED, MORE, RETRIED, RUN, RUN_SECONDS, SUM, WAIT, WAIT_SECONDS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


def mount_metrics(app: web.Application, health: Health, keys: Sequence[str]) -> None:
    """Add the three routes, and measure all others.

    Args:
        keys: who may ask for /metrics and /health; without keys, this machine alone. /ready tells nothing and is open.
    """
    registry = CollectorRegistry()
    registry.register(PoolCollector(health))
    seconds = Histogram(
        "redux_gateway_request_seconds",
        "Requests to this gateway.",
        ["method", "route", "status"],
        buckets=REQUEST_SECONDS,
        registry=registry,
    )

    async def metrics(request: web.Request) -> web.StreamResponse:
        _admit(request, keys)
        text = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def tell_health(request: web.Request) -> web.StreamResponse:
        _admit(request, keys)
        return web.json_response((await health.look()).to_json())

    async def ready(_: web.Request) -> web.StreamResponse:
        good = (await health.look()).is_ready
        return web.json_response({"ready": good}, status=200 if good else 503)

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", tell_health)
    app.router.add_get("/ready", ready)
    app.middlewares.insert(0, _measured(seconds))


def _measured(seconds: Histogram) -> Any:
    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, status = time.perf_counter(), 500
        try:
            answer = await handler(request)
            status = answer.status
            return answer
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            resource = request.match_info.route.resource
            route = resource.canonical if resource else "none"  # never the path itself: strangers choose it
            method = (
                request.method if request.method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS") else "other"
            )
            seconds.labels(method, route, str(status)).observe(time.perf_counter() - began)

    return handle


def _admit(request: web.Request, keys: Sequence[str]) -> None:
    try:
        authorize(request.headers, request.remote, keys)
    except ApiError as error:
        kind = web.HTTPUnauthorized if error.status == 401 else web.HTTPForbidden
        raise kind(text=error.message) from None


class PoolCollector(Collector):
    """The pool as its database has it. Without the database there is nothing but `redux_pool_up 0`."""

    def __init__(self, health: Health) -> None:
        self.health = health

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        families: list[Metric] = []
        try:
            runs = self.health.runs()
            families = [*_depths(runs), *_totals(runs), *self._hosts(runs)]
        except (ApiError, OSError):
            families = []
        yield GaugeMetricFamily("redux_pool_up", "Whether the pool's job store answers.", float(bool(families)))
        yield from families

    def _hosts(self, runs: Runs) -> Iterable[Metric]:
        up = GaugeMetricFamily("redux_pool_host_up", "Whether a host takes jobs.", labels=["host"])
        busy = GaugeMetricFamily("redux_pool_host_busy", "Whether a host runs a job now.", labels=["host"])
        running = dict(runs.current())
        for report in self.health.reports():
            up.add_metric([report.name], float(report.state == READY))
            busy.add_metric([report.name], float(report.name in running))
        return (up, busy)


def _depths(runs: Runs) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("redux_pool_jobs", "Jobs that wait or run.", labels=["queue", "state"])
    oldest = GaugeMetricFamily("redux_pool_oldest_seconds", "Age of the oldest job.", labels=["queue", "state"])
    for depth in runs.depths():
        jobs.add_metric([depth.queue, depth.state], depth.count)
        oldest.add_metric([depth.queue, depth.state], depth.oldest)
    return (jobs, oldest)


def _totals(runs: Runs) -> Iterable[Metric]:
    ended = CounterMetricFamily("redux_pool_jobs_ended", "Jobs answered.", labels=["host", "result"])
    retried = CounterMetricFamily("redux_pool_retries", "Attempts without an answer.", labels=["host", "cause"])
    busy = CounterMetricFamily("redux_pool_busy_seconds", "Seconds in which a host had a job.", labels=["host"])
    counted: dict[str, dict[str, dict[str, float]]] = {}
    for host, name, label, value in runs.tallies.read():
        counted.setdefault(host, {}).setdefault(name, {})[label] = value
    now = dict(runs.current())
    for host in sorted({*counted, *now}):
        values = counted.get(host, {})
        for result, count in values.get(ENDED, {}).items():
            ended.add_metric([host, result], count)
        for cause, count in values.get(RETRIED, {}).items():
            retried.add_metric([host, cause], count)
        if host:
            busy.add_metric([host], values.get(BUSY, {}).get("", 0.0) + now.get(host, 0.0))
    wait = HistogramMetricFamily("redux_pool_wait_seconds", "From a job's making to its start.", labels=["host"])
    run = HistogramMetricFamily("redux_pool_run_seconds", "From a job's start to its end.", labels=["host"])
    for host, values in sorted(counted.items()):
        if WAIT in values:
            wait.add_metric([host], _cumulated(values[WAIT], WAIT_SECONDS), values[WAIT + SUM][""])
            run.add_metric([host], _cumulated(values[RUN], RUN_SECONDS), values[RUN + SUM][""])
    return (ended, retried, busy, wait, run)


def _cumulated(counts: dict[str, float], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Counts of single buckets as Prometheus wants them: each with all that are below it."""
    found, total = [], 0.0
    for bound in [*(str(bound) for bound in bounds), MORE]:
        total += counts.get(bound, 0.0)
        found.append((bound, total))
    return found
