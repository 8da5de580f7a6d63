"""A caller's predictions as Replicate lists them: the newest first, a hundred at a time."""

from __future__ import annotations

import base64
import binascii
import itertools
import math
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from ..dialect import Reply
from ..errors import ApiError, shown
from ..gateway import Gateway
from ..jobs import Job
from .models import page
from .prediction import VENDOR, describe_linked

PAGE = 100
OLDER, NEWER = "older", "newer"


async def predictions(gateway: Gateway, request: web.Request) -> Reply:
    direction, beside = _read_cursor(request.query.get("cursor", ""))
    after = _read_time(request, "created_after", -math.inf)
    before = _read_time(request, "created_before", math.inf)
    jobs = gateway.runner.store.recent(VENDOR, gateway.owner(request), beside, direction == NEWER)
    wanted = (job for job in jobs if after <= job.created < before)
    found = list(itertools.islice(wanted, PAGE + 1))
    more, found = len(found) > PAGE, found[:PAGE]
    if direction == NEWER:
        found.reverse()
    is_last, is_first = (False, not more) if direction == NEWER else (not more, beside is None)
    base = gateway.base_url(request)
    filters = {name: value for name, value in request.query.items() if name.startswith("created_")}

    def address(direction: str, job: Job) -> str:
        return f"{base}/v1/predictions?{urlencode({**filters, 'cursor': _cursor(direction, job)})}"

    return 200, page(
        [describe_linked(gateway, base, job) for job in found],
        address(OLDER, found[-1]) if found and not is_last else None,
        address(NEWER, found[0]) if found and not is_first else None,
    )


def _cursor(direction: str, job: Job) -> str:
    return base64.urlsafe_b64encode(f"{direction} {job.created!r} {job.id}".encode()).decode()


def _read_cursor(text: str) -> tuple[str, tuple[float, str] | None]:
    if not text:
        return OLDER, None
    try:
        direction, created, id = base64.urlsafe_b64decode(text).decode("ascii").split(" ")
        if direction in (OLDER, NEWER):
            return direction, (float(created), id)
    except (binascii.Error, ValueError):
        pass
    raise ApiError(400, "cursor is none of this server's; use next or previous of a list as they are.", "cursor")


def _read_time(request: web.Request, name: str, default: float) -> float:
    text: Any = request.query.get(name)
    if text is None:
        return default
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00").replace(" ", "+")).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ApiError(400, f"{name} is '{shown(text)}'; a time in ISO 8601 is needed.", name) from None
