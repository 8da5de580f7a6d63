"""Bodies that carry a file: multipart forms, and a file alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from .errors import ApiError, shown

MAX_PARTS = 32
T = TypeVar("T")

# What aiohttp raises on damaged forms; anything else is a fault of ours and is to be seen.
DAMAGED = (HttpProcessingError, ValueError, AssertionError, LookupError, EOFError, RuntimeError)


@dataclass(frozen=True)
class Part:
    """A field of a form; `filename` is empty where none was given."""

    content: bytes
    content_type: str
    filename: str


async def read_form(request: web.Request, limit: int, seconds: float) -> dict[str, Part]:
    """The fields of a multipart form that ends within the limits (of bytes and time), by name.

    Raises:
        ApiError: 415, the body is of another type; 413, it is too long; 408, it is too slow; 400, it is damaged.
    """
    return await _within(_read_form(request, limit), seconds)


async def read_file(request: web.Request, limit: int, seconds: float) -> bytes:
    """A body that ends within the limits, of bytes and time.

    Raises:
        ApiError: 413, it is too long; 408, it is too slow.
    """
    return await _within(_read_file(request, limit), seconds)


def refuse_unknown(form: dict[str, Part], known: str) -> None:
    """Raise ApiError 400 for a field whose whole name does not match the pattern `known`."""
    for name in form:
        if not re.fullmatch(known, name, re.DOTALL):
            raise ApiError(400, f"{shown(name)} is no field of this form.", shown(name))


async def _within(reading: Coroutine[Any, Any, T], seconds: float) -> T:
    try:
        return await asyncio.wait_for(reading, seconds)
    except asyncio.TimeoutError:
        raise ApiError(408, f"The body did not arrive within {seconds:g} s.") from None


async def _read_form(request: web.Request, limit: int) -> dict[str, Part]:
    if request.content_type != "multipart/form-data":
        raise ApiError(415, f"The body is {shown(request.content_type)}; send Content-Type: multipart/form-data.")
    too_long = ApiError(413, f"The form has more than {limit >> 20} MB.")
    if (request.content_length or 0) > limit:
        raise too_long
    parts: dict[str, Part] = {}
    try:
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader) or not part.name or len(parts) >= MAX_PARTS:
                raise ApiError(400, f"The form has nested fields, fields without name, or more than {MAX_PARTS}.")
            content = bytearray()
            while chunk := await part.read_chunk(1 << 16):
                content += chunk
                limit -= len(chunk)
                if limit < 0:
                    raise too_long
            content_type = part.headers.get("Content-Type", "").partition(";")[0].strip()
            parts[part.name] = Part(bytes(content), content_type, part.filename or "")
    except DAMAGED:
        raise ApiError(400, "The body is no whole multipart form.") from None
    return parts


async def _read_file(request: web.Request, limit: int) -> bytes:
    content = bytearray()
    async for chunk in request.content.iter_any():
        content += chunk
        if len(content) > limit:
            raise ApiError(413, f"The file has more than {limit >> 20} MB.")
    return bytes(content)
