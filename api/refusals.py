"""Refusals of paths that nobody serves, in the shape of the vendor below whose prefix they lie.

ComfyUI's own answer would be a page of text, which the vendors' clients cannot read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from .auth import authorize
from .dialect import Dialect
from .errors import ApiError


def refuse_strays(dialects: Sequence[Dialect], keys: Sequence[str]) -> Any:
    """A middleware that answers 404 and 405, and any refusal of aiohttp's own, below the vendors' prefixes.

    Paths of ComfyUI's that lie there too (/api/v2/userdata) are left alone.
    """

    @web.middleware
    async def handle(request: web.Request, handler: Any) -> web.StreamResponse:
        dialect = next((item for item in dialects if request.path.startswith(item.prefixes)), None)
        if dialect is None:
            return await handler(request)
        try:
            if _is_stray(request):
                authorize(request.headers, request.remote, keys)
                raise _refusal(dialects, request)
            return await handler(request)
        except ApiError as error:
            return shaped(dialect, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return shaped(dialect, ApiError(error.status, f"{error.reason}."))

    return handle


def shaped(dialect: Dialect, error: ApiError) -> web.Response:
    """A refusal as this vendor words it."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return web.json_response(dialect.shape_error(error), status=error.status, headers={**headers, **error.headers})


def _is_stray(request: web.Request) -> bool:
    """Whether a path leads nowhere, or to the folder of ComfyUI's page, which lies below every path."""
    match = request.match_info
    return match.http_exception is not None or isinstance(match.route.resource, web.StaticResource)


def _refusal(dialects: Sequence[Dialect], request: web.Request) -> ApiError:
    methods = {
        route.method
        for dialect in dialects
        for route in dialect.routes
        if re.fullmatch(re.sub(r"{[^}]*}", "[^/]+", route.path), request.path)
    }
    if methods:
        allowed = ", ".join(sorted(methods))
        return ApiError(405, f"{request.method} is not possible here; {allowed} is.", headers={"Allow": allowed})
    return ApiError(404, "There is nothing at this path; /redux-api/openapi.json lists what there is.")
