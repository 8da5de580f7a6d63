"""The endpoints in a web server: who may come in, what a body may be, and errors in the vendor's shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.log import server_logger

from . import links, replicate, wavespeed
from .auth import authorize
from .dialect import Dialect, Route
from .errors import ApiError, shown
from .gateway import Gateway
from .refusals import refuse_strays, shaped
from .schema import parse_json

SWEEP_SECONDS, WEBHOOK_SECONDS = 600.0, 0.5
VENDORS = (replicate.DIALECT, wavespeed.DIALECT)
DIALECTS: tuple[Dialect, ...] = (*VENDORS, links.DIALECT)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


class CallersFaults(logging.Filter):
    """Keeps requests that cannot be read out of the log of aiohttp, which writes a traceback for each.

    Such a request is answered with 400 before. aiohttp reads the rest of every body after the answer, whoever has
    answered and for whatever reason, so it meets there what is no gzip, for instance, and no handler can see to it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, (web.RequestPayloadError, BadHttpMessage)):
            return True
        log.debug("Redux API: a request cannot be read: %s", error)
        return False


_CALLERS_FAULTS = CallersFaults()
"""One, since a logger takes the same filter only once."""


def mount(app: web.Application, gateway: Gateway) -> None:
    """Add the routes. They go into the router itself: ComfyUI would give those of its table a second path, /api/..."""
    for dialect in DIALECTS:
        for route in dialect.routes:
            add = app.router.add_get if route.method == "GET" else partial(app.router.add_route, route.method)
            add(route.path, _handler(gateway, dialect, route))
    server_logger.addFilter(_CALLERS_FAULTS)
    app.middlewares.append(refuse_strays(DIALECTS, gateway.settings.keys))


async def begin(gateway: Gateway) -> None:
    """Start what runs beside the requests; the gateway has all its parts."""
    await gateway.runner.start()
    gateway.runner.supervisor.repeat("webhooks", gateway.webhooks.look, WEBHOOK_SECONDS)
    gateway.runner.supervisor.repeat("removing old files", gateway.files.clear_old, SWEEP_SECONDS)


async def end(gateway: Gateway) -> None:
    await gateway.runner.stop()
    await gateway.webhooks.stop()
    await gateway.decoder.close()


def _handler(gateway: Gateway, dialect: Dialect, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            if not route.is_open:
                authorize(request.headers, request.remote, gateway.settings.keys)
            if route.reads_json:
                body = await gateway.bodies.read(request, gateway.owner(request))
                request["body"] = await asyncio.to_thread(parse_json, body)
            reply = await route.answer(gateway, request)
        except ApiError as error:
            return shaped(dialect, error)
        except web.RequestPayloadError:
            return shaped(dialect, _unreadable(request))
        except web.HTTPException:
            raise
        except Exception as error:
            if _has_left(request, error):
                return shaped(dialect, _unreadable(request))  # to nobody
            log.exception("Redux API: %s %s failed.", request.method, route.path)
            return shaped(dialect, ApiError(500, "This server failed; its log tells why."))
        if isinstance(reply, web.StreamResponse):
            return reply
        status, content = reply
        return web.Response(status=status) if content is None else web.json_response(content, status=status)

    return handle


def _has_left(request: web.Request, error: Exception) -> bool:
    """Whether an error is that the caller has closed the connection: as its body came, or as its answer went."""
    gone = request.transport is None or request.transport.is_closing()
    return error is request.content.exception() or (gone and isinstance(error, ConnectionError))


def _unreadable(request: web.Request) -> ApiError:
    encoding = request.headers.get("Content-Encoding")
    if encoding:
        return ApiError(400, f"The body is not whole, or no {shown(encoding)} as its header Content-Encoding says.")
    return ApiError(400, "The body ended before its end.")
