"""The reference of a request: the bytes behind a URL, a data URI or base64. decoder.py makes a PNG of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re

from .errors import ApiError
from .fetch import fetch
from .settings import Settings


async def read_source(source: str, field: str, settings: Settings) -> bytes:
    """The bytes of a picture that a request names or carries.

    Raises:
        ApiError: 400 with the field's name.
    """
    limit = int(settings.max_image_mb * (1 << 20))
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*):", source)
    if scheme is None:
        return await asyncio.to_thread(_decode_base64, source, field, limit)
    if scheme[1].lower() != "data":
        return await fetch(source.strip(), field, limit, settings.fetch_seconds, settings.trusted_hosts)
    head, comma, data = source.strip().partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ApiError(400, f"{field}: a data URI must be data:image/...;base64, and then the picture.", field)
    return await asyncio.to_thread(_decode_base64, data, field, limit)


def _decode_base64(text: str, field: str, limit: int) -> bytes:
    compact = "".join(text.split())
    if len(compact) * 3 // 4 > limit:
        raise ApiError(400, f"{field}: the picture has more than {limit >> 20} MB.", field)
    try:
        return base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{field} is neither a URL nor a data URI nor base64.", field) from None
