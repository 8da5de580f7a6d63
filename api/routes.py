"""The endpoints in ComfyUI's web server: who may come in, what a body may be, and errors in the vendor's shape."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from server import PromptServer

from . import replicate, wavespeed
from .auth import authorize
from .errors import ApiError
from .gateway import Gateway
from .jobs import JobStore
from .runner import Runner
from .schema import FILE as DOCUMENT
from .schema import parse_json
from .settings import Settings

DATABASE = "redux-api.sqlite"
OUTPUT = "/redux-api/outputs/{id}/{index}.{suffix}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = Callable[[Gateway, web.Request], Awaitable[tuple[int, dict[str, Any]]]]
Shape = Callable[[ApiError], dict[str, Any]]


def register(settings: Settings) -> None:
    """Add the routes. They go into the router itself: ComfyUI would give those of its table a second path, /api/..."""
    app = PromptServer.instance.app
    gateway = Gateway(settings)

    async def start(_: web.Application) -> None:
        store = JobStore(Path(folder_paths.get_user_directory()) / DATABASE)
        folders = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
        gateway.runner = Runner(settings, store, *folders)
        await gateway.runner.start()

    async def stop(_: web.Application) -> None:
        await gateway.runner.stop()

    app.on_startup.append(start)
    app.on_cleanup.append(stop)
    for method, path, answer, shape in (*wavespeed.ROUTES, *replicate.ROUTES):
        app.router.add_route(method, path, _handler(gateway, answer, shape))
    app.router.add_get("/redux-api/openapi.json", _document)
    app.router.add_get(OUTPUT, _output(gateway))


def _handler(gateway: Gateway, answer: Answer, shape: Shape) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            authorize(request.headers, request.remote, gateway.settings.keys)
            if request.method == "POST" and "id" not in request.match_info:
                with gateway.entrance():
                    request["body"] = await _read_body(request, int(gateway.settings.max_body_mb * (1 << 20)))
            status, content = await answer(gateway, request)
        except ApiError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            return web.json_response(shape(error), status=error.status, headers=headers)
        return web.json_response(content, status=status)

    return handle


async def _read_body(request: web.Request, limit: int) -> Any:
    """The JSON of a body that ends within the limit; it is read in parts, so that no more than that is ever held."""
    if request.content_type != "application/json":
        raise ApiError(415, "The body has another type; send Content-Type: application/json.")
    too_long = ApiError(413, f"The body has more than {limit >> 20} MB.")
    if (request.content_length or 0) > limit:
        raise too_long
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > limit:
            raise too_long
    return await asyncio.to_thread(parse_json, bytes(body))


async def _document(_: web.Request) -> web.StreamResponse:
    return web.Response(text=DOCUMENT.read_text("utf-8"), content_type="application/json")


def _output(gateway: Gateway) -> Handler:
    """A picture by its link. The link's id cannot be guessed, so it needs no key, as with the vendors' own links."""

    async def handle(request: web.Request) -> web.StreamResponse:
        index = request.match_info["index"]
        job = gateway.find(request.match_info["id"])
        if job is None or not re.fullmatch("[0-9]{1,2}", index) or int(index) >= len(job.outputs):
            return web.Response(status=404, text="This picture does not exist, or no longer.")
        path = gateway.runner.outputs / job.outputs[int(index)]
        if not path.is_file():
            return web.Response(status=404, text="This picture was removed.")
        return web.FileResponse(path, headers={"X-Content-Type-Options": "nosniff"})

    return handle
