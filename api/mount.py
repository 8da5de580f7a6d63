"""The endpoints in a web server: who may come in, what a body may be, and errors in the vendor's shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from . import links, replicate, wavespeed
from .auth import authorize
from .dialect import Dialect, Route
from .errors import ApiError
from .gateway import Gateway
from .refusals import refuse_strays, shaped
from .schema import parse_json

SWEEP_SECONDS, WEBHOOK_SECONDS = 600.0, 0.5
VENDORS = (replicate.DIALECT, wavespeed.DIALECT)
DIALECTS: tuple[Dialect, ...] = (*VENDORS, links.DIALECT)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


def mount(app: web.Application, gateway: Gateway) -> None:
    """Add the routes. They go into the router itself: ComfyUI would give those of its table a second path, /api/..."""
    for dialect in DIALECTS:
        for route in dialect.routes:
            add = app.router.add_get if route.method == "GET" else partial(app.router.add_route, route.method)
            add(route.path, _handler(gateway, dialect, route))
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
            return shaped(dialect, ApiError(400, "The body ended before its end."))
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            log.exception("Redux API: %s %s failed.", request.method, route.path)
            return shaped(dialect, ApiError(500, "This server failed; its log tells why."))
        if isinstance(reply, web.StreamResponse):
            return reply
        status, content = reply
        return web.Response(status=status) if content is None else web.json_response(content, status=status)

    return handle
