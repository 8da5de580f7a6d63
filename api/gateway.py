"""What both vendors' endpoints share: pictures in, jobs out, links."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .errors import ApiError
from .images import read_source, to_png
from .jobs import Job, Order
from .settings import Settings

if TYPE_CHECKING:
    from .runner import Runner

MIME = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


class Gateway:
    """`runner` is there once the server has started."""

    runner: Runner

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.decoders = asyncio.Semaphore(2)
        self.entering = 0

    @contextmanager
    def entrance(self) -> Iterator[None]:
        """Counts a request that is not a job yet with the jobs, since it holds memory too.

        Raises:
            ApiError: 429, there are too many.
        """
        if len(self.runner.store.live) + self.entering >= self.settings.max_queue:
            raise ApiError(429, f"{self.settings.max_queue} jobs wait already; try again later.")
        self.entering += 1
        try:
            yield
        finally:
            self.entering -= 1

    async def submit(self, vendor: str, values: dict[str, Any], field: str, order: dict[str, Any]) -> Job:
        """Read the reference that `values[field]` names, and queue the order.

        Raises:
            ApiError: a bad picture (400), too many jobs (429), or a model or classifier that is missing (503).
        """
        if order.get("safety"):
            _check_classifier()
        with self.entrance():
            content = await read_source(values[field], field, self.settings)
            async with self.decoders:  # a decoded picture may take 256 MB
                png = await asyncio.to_thread(to_png, content, field, self.settings.max_megapixels)
            reference = self.runner.keep_reference(png)
            try:
                return await self.runner.submit(vendor, Order(reference=reference, **order), _shown(values, field))
            finally:
                self.runner.release_reference(reference)

    def find(self, id: str) -> Job | None:
        return self.runner.store.get(id) if re.fullmatch("[0-9a-f]{32}", id) else None

    def job_of(self, request: web.Request, vendor: str) -> Job:
        """The job that the path names.

        Raises:
            ApiError: 404, there is none, or it is another vendor's.
        """
        job = self.find(request.match_info["id"])
        if job is None or job.vendor != vendor:
            raise ApiError(404, f"There is no such job; results are kept for {self.settings.keep_hours:g} hours.")
        return job

    def base_url(self, request: web.Request) -> str:
        return self.settings.public_url or f"{request.scheme}://{request.host}"

    def links(self, job: Job, request: web.Request) -> list[str]:
        base = f"{self.base_url(request)}/redux-api/outputs/{job.id}"
        return [f"{base}/{index}.{job.order.format}" for index in range(len(job.outputs))]

    async def data_uris(self, job: Job) -> list[str]:
        """The pictures themselves; those that were removed are left out."""
        paths = [self.runner.outputs / name for name in job.outputs]
        contents = [await asyncio.to_thread(path.read_bytes) for path in paths if path.is_file()]
        mime = MIME[job.order.format]
        return [f"data:{mime};base64,{base64.b64encode(content).decode()}" for content in contents]


def draw_seed() -> int:
    return secrets.randbelow(2**32)


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as the vendors write times: 2026-01-31T12:00:00.123Z."""
    text = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _check_classifier() -> None:
    from ..nodes.classifier import MISSING, is_installed

    if not is_installed():
        raise ApiError(503, MISSING)


def _shown(values: dict[str, Any], field: str) -> dict[str, Any]:
    """The input as it is given back: a picture in it would make every answer as long as the request."""
    source = values[field]
    return {**values, field: source if len(source) <= 2000 else f"{source[:40]}... ({len(source)} characters)"}
