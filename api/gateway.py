"""What both vendors' endpoints share: pictures in, jobs out, links, files, webhooks."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .auth import name_caller
from .body import Bodies
from .decoder import Decoder
from .errors import ApiError
from .images import read_source
from .jobs import Job, Order, Repeated
from .once import read_once, same
from .settings import Settings

if TYPE_CHECKING:
    from .files import FileStore
    from .runner import Runner
    from .secret import Secret
    from .webhooks import Webhook, Webhooks

MAX_STREAMS = 1000
MIME = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


class Gateway:
    """The parts that keep something are there once the server has started."""

    runner: Runner
    files: FileStore
    webhooks: Webhooks
    secret: Secret

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.decoder, self.bodies = Decoder(settings), Bodies(settings)
        self.entering: Counter[str] = Counter()
        self.listening = 0
        self.streams: dict[str, str] = {}

    @contextmanager
    def entrance(self, owner: str) -> Iterator[None]:
        """Counts a request whose body is read and which is not a job yet with the jobs: it holds memory too.

        Raises:
            ApiError: 429, there are too many, or too many of this caller where there are others.
        """
        live, settings = self.runner.store.live.values(), self.settings
        if len(live) + self.entering.total() >= settings.max_queue:
            raise ApiError(429, f"{settings.max_queue} jobs wait already; try again later.")
        share = max(1, int(settings.max_queue * settings.key_share))
        if len(settings.keys) > 1 and sum(job.owner == owner for job in live) + self.entering[owner] >= share:
            raise ApiError(429, f"{share} jobs of this key wait already, which is its share; try again later.")
        self.entering[owner] += 1
        try:
            yield
        finally:
            self.entering[owner] -= 1

    async def submit(
        self,
        vendor: str,
        request: web.Request,
        values: dict[str, Any],
        field: str,
        order: dict[str, Any],
        webhook: Webhook | None = None,
        **options: Any,
    ) -> Job:
        """Read the reference that `values[field]` names, and queue the order.

        Args:
            webhook: who is to be told how it goes.
            options: kept with the job for the vendor's module.

        Raises:
            ApiError: a bad picture or webhook (400), a name of another request (422), too many jobs (429), or a model
                or classifier that is missing, or a full disk (503).
        """
        owner = self.owner(request)
        once = read_once(request.headers, owner, vendor, request["body"])
        if once and (known := self.runner.store.by_key(once.key)):
            return same(known, once)
        if order.get("safety"):
            _check_classifier()
        if webhook:
            self.webhooks.check(webhook.url)
        with self.entrance(owner):
            content = await self.files.read_link(values[field], owner, field, self.base_url(request))
            if content is None:
                content = await read_source(values[field], field, self.settings)
            picture = await self.decoder.decode(content, field, self.runner.backend.scratch)
            async with self.runner.reference(picture) as reference:
                id, new = uuid.uuid4(), Order(reference=reference, **order)
                try:
                    with self.webhooks.promise(id.hex, webhook):
                        return await self.runner.submit(id, vendor, new, _shown(values, field), owner, options, once)
                except Repeated as error:  # it came twice at the same time
                    return same(error.job, once)

    def owner(self, request: web.Request) -> str:
        return name_caller(request.headers, self.settings.keys)

    def webhook_secret(self, owner: str) -> str:
        """What a caller's webhooks are signed with, in base64."""
        return base64.b64encode(self.secret.derive(f"webhook {owner}")).decode()

    def find(self, id: str) -> Job | None:
        """A job by its id, as long as results are kept."""
        return self._kept(self.runner.store.get(id)) if re.fullmatch("[0-9a-f]{32}", id) else None

    async def picture(self, link: str, index: str) -> Path | None:
        """The file behind a link; None where there is none, or no longer."""
        job = self._kept(self.runner.store.by_link(link)) if re.fullmatch("[0-9a-f]{32}", link) else None
        if job is None or not re.fullmatch("[0-9]{1,2}", index) or int(index) >= len(job.outputs):
            return None
        return await self.runner.backend.output(job.outputs[int(index)])

    def _kept(self, job: Job | None) -> Job | None:
        end = time.time() - 3600 * self.settings.keep_hours
        return None if job is None or (job.finished and job.finished < end) else job

    def remember_stream(self, token: str, id: str) -> None:
        """Let a job be found by its stream's token for as long as the job is kept, or this server runs."""
        if len(self.streams) >= MAX_STREAMS:
            self.streams = {token: id for token, id in self.streams.items() if self.find(id)}
        self.streams[token] = id

    def find_stream(self, token: str) -> Job | None:
        known = self.streams.get(token)
        if known:
            return self.find(known)
        # After a restart: of a job that was queued before it.
        return next((job for job in self.runner.store.live.values() if job.options.get("stream") == token), None)

    @contextmanager
    def listener(self) -> Iterator[None]:
        """Counts those that follow a stream.

        Raises:
            ApiError: 429, there are too many.
        """
        if self.listening >= self.settings.max_queue:
            raise ApiError(429, f"{self.listening} streams are followed already; ask for the prediction instead.")
        self.listening += 1
        try:
            yield
        finally:
            self.listening -= 1

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

    def links(self, job: Job, base: str) -> list[str]:
        """Links to a job's pictures under the address by which the caller knows this server."""
        folder = f"{base}/redux-api/outputs/{job.link}"
        return [f"{folder}/{index}.{job.order.format}" for index in range(len(job.outputs))]

    async def data_uris(self, job: Job) -> list[str]:
        """The pictures themselves; those that were removed are left out."""
        paths = [await self.runner.backend.output(name) for name in job.outputs]
        contents = [await asyncio.to_thread(path.read_bytes) for path in paths if path]
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
