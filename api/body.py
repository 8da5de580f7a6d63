"""Bodies of requests: how long one may take, how large it may be, and how much may arrive at once."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web

from .errors import ApiError, shown
from .settings import Settings

AT_ONCE = 10
"""So many bodies of the largest size are held at once, and half of it by one key where there are several."""


class Bodies:
    def __init__(self, settings: Settings) -> None:
        self.limit, self.seconds = int(settings.max_body_mb * (1 << 20)), settings.body_seconds
        self.total = AT_ONCE * self.limit
        self.share = self.total // 2 if len(settings.keys) > 1 else self.total
        self.held: Counter[str] = Counter()

    async def read(self, request: web.Request, owner: str) -> bytes:
        """A body of JSON.

        Raises:
            ApiError: 408 too slow, 413 too long, 415 of another type, 429 too much arrives at once.
        """
        if request.content_type != "application/json":
            raise ApiError(415, f"The body is {shown(request.content_type)}; send Content-Type: application/json.")
        if (request.content_length or 0) > self.limit:
            raise self._too_long()
        body = bytearray()
        try:
            await asyncio.wait_for(self._receive(request, owner, body), self.seconds)
        except asyncio.TimeoutError:
            raise ApiError(408, f"The body did not arrive within {self.seconds:g} s.") from None
        finally:
            self.held[owner] -= len(body)
        return bytes(body)

    async def _receive(self, request: web.Request, owner: str, body: bytearray) -> None:
        """Read in parts, so that no more than the limits is ever held."""
        async for part in request.content.iter_any():
            body += part
            self.held[owner] += len(part)
            if len(body) > self.limit:
                raise self._too_long()
            if self.held[owner] > self.share or self.held.total() > self.total:
                raise ApiError(429, "Too many large requests arrive at once; try again later.")

    def _too_long(self) -> ApiError:
        return ApiError(413, f"The body has more than {self.limit >> 20} MB.")
