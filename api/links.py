"""What lies below /redux-api/ and is no vendor's: pictures and files by link, and the description of it all.

Ids in links cannot be guessed, so links need no key, as with the vendors' own.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from .dialect import Dialect, Reply, Route
from .errors import ApiError
from .gateway import Gateway
from .schema import FILE as DOCUMENT

# A file of a caller's must never run as a page of this server, whatever it says about itself.
INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Content-Disposition": "attachment",
    "Content-Type": "application/octet-stream",
    "Cache-Control": "private",
}


async def document(_: Gateway, __: web.Request) -> Reply:
    return web.Response(text=DOCUMENT.read_text("utf-8"), content_type="application/json")


async def output(gateway: Gateway, request: web.Request) -> Reply:
    path = await gateway.picture(request.match_info["link"], request.match_info["index"])
    if path is None:
        raise ApiError(404, "This picture does not exist, or no longer.")
    return web.FileResponse(path, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private"})


async def file(gateway: Gateway, request: web.Request) -> Reply:
    item = gateway.files.find(request.match_info["id"])
    if item is None or not gateway.files.path(item).is_file():
        raise ApiError(404, "This file does not exist, or no longer.")
    return web.FileResponse(gateway.files.path(item), headers=INERT)


def shape_error(error: ApiError) -> dict[str, Any]:
    return {"error": error.message, "status": error.status}


DIALECT = Dialect(
    prefixes=("/redux-api/",),
    routes=(
        Route("GET", "/redux-api/openapi.json", document, is_open=True),
        Route("GET", "/redux-api/outputs/{link}/{index}.{suffix}", output, is_open=True),
        Route("GET", "/redux-api/files/{id}/{name}", file, is_open=True),
    ),
    shape_error=shape_error,
)
