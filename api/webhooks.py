"""Webhooks: a caller's address is told how a job goes, at least once for each event that it asked for.

A job's webhook is a record on the disk from before the job is queued until its end was taken, so neither a receiver
that is away nor a restart loses one. What is to be told is worked out from the job as it is, not from events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from .dialect import Vendor
from .errors import ApiError
from .fetch import check_url, post
from .job_store import StoreError
from .jobs import Job
from .records import Records

if TYPE_CHECKING:
    from .gateway import Gateway

END = "end"
ANSWER_SECONDS = 10.0
MAX_ATTEMPTS = 10
"""With the pauses of `_pause`, some 14 minutes."""
MAX_AT_ONCE = 8
MAX_URL = 2000

log = logging.getLogger(__name__)


@dataclass
class Webhook:
    """`base` is the address under which the job's caller knows this server; `step` is the last one told.

    Both vendors' default is to tell of pictures and of the end.
    """

    url: str
    base: str
    events: list[str] = field(default_factory=lambda: ["output", "completed"])
    sent: list[str] = field(default_factory=list)
    attempts: int = 0
    step: int = 0
    due: float = 0.0


class Webhooks:
    """What is still to be told, and to whom. `vendors` are by name."""

    def __init__(self, folder: Path, gateway: Gateway, vendors: Mapping[str, Vendor]) -> None:
        self.records, self.gateway, self.vendors = Records(folder), gateway, vendors
        self.waiting: dict[str, Webhook] = {}
        for id, record in self.records.load().items():
            try:
                self.waiting[id] = Webhook(**record)
            except TypeError:
                log.warning("Redux API: the webhook of job %s cannot be read and is left out.", id)
        self.under_way: dict[str, asyncio.Task[None]] = {}

    def check(self, url: str) -> None:
        """Raise ApiError 400 where an address is bad as it stands."""
        if len(url) > MAX_URL:
            raise ApiError(400, f"webhook has {len(url)} characters; {MAX_URL} are the most.", "webhook")
        check_url(url, "webhook", self.gateway.settings.trusted_hosts)

    @contextmanager
    def promise(self, id: str, webhook: Webhook | None) -> Iterator[None]:
        """Watch the job that is queued inside, with a record on the disk from before it until its end is told.

        Raises:
            ApiError: 503, the record cannot be written, so nothing could be promised.
        """
        if webhook is None:
            yield
            return
        try:
            self.records.put(id, asdict(webhook))
        except OSError:
            raise ApiError(503, "The webhook cannot be kept: this server's disk takes nothing more.") from None
        try:
            yield
        except BaseException:
            self.drop(id)
            raise
        self.waiting[id] = webhook

    def drop(self, id: str) -> None:
        self.waiting.pop(id, None)
        try:
            self.records.drop(id)
        except OSError as error:
            log.warning("Redux API: the webhook of job %s is told again after a restart: %s.", id, error)

    async def look(self) -> None:
        """Tell whatever is to be told now."""
        for id, webhook in list(self.waiting.items()):
            if id not in self.under_way and len(self.under_way) < MAX_AT_ONCE and webhook.due <= time.time():
                self._look(id, webhook)

    async def stop(self) -> None:
        tasks = list(self.under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, id: str, webhook: Webhook) -> None:
        job = self.gateway.find(id)
        if job is None:
            self.drop(id)
            return
        event = next_event(webhook, job)
        if event:
            task = asyncio.create_task(self._tell(job, webhook, event))
            self.under_way[id] = task
            task.add_done_callback(lambda _: self.under_way.pop(id, None))
        elif job.done:
            self.drop(id)

    async def _tell(self, job: Job, webhook: Webhook, event: str) -> None:
        """One attempt; what comes next depends on its outcome."""
        try:
            status = await self._post(job, webhook, event)
            reason = "" if 200 <= status < 300 else f"status {status}"
        except StoreError as error:
            status, reason = 0, error.message
        except ApiError as error:
            status, reason = 410, error.message  # this address will not become a public one
        except (OSError, aiohttp.ClientError, asyncio.TimeoutError) as error:
            status, reason = 0, str(error) or type(error).__name__
        if not reason:
            webhook.sent.append(END if job.done and event != "start" else event)
            webhook.step, webhook.attempts, webhook.due = job.step, 0, 0.0
        else:
            webhook.attempts += 1
            webhook.due = time.time() + _pause(webhook.attempts)
        if reason and (status == 410 or webhook.attempts >= MAX_ATTEMPTS):
            log.warning("Redux API: the webhook of job %s is given up after %s.", job.id, reason.rstrip("."))
            self.drop(job.id)
        else:
            self._keep(job.id, webhook)

    async def _post(self, job: Job, webhook: Webhook, event: str) -> int:
        vendor, settings = self.vendors[job.vendor], self.gateway.settings
        body = json.dumps(vendor.describe(self.gateway, webhook.base, job)).encode()
        number, seconds = f"{job.id}-{event}-{job.step}", str(int(time.time()))
        signature = vendor.sign(self.gateway.webhook_secret(job.owner), f"{number}.{seconds}.".encode() + body)
        headers = {"Content-Type": "application/json", "User-Agent": "redux-control"}
        headers |= {"webhook-id": number, "webhook-timestamp": seconds, "webhook-signature": signature}
        return await post(webhook.url, body, headers, ANSWER_SECONDS, settings.trusted_hosts)

    def _keep(self, id: str, webhook: Webhook) -> None:
        with suppress(OSError):  # then it is told once more after a restart: at least once
            self.records.put(id, asdict(webhook))


def next_event(webhook: Webhook, job: Job) -> str:
    """What is to be told now: start, logs, output or completed, or nothing.

    Pictures and the end of a job come at the same moment, so one request tells both.
    """
    wanted = webhook.events
    if "start" in wanted and "start" not in webhook.sent and (job.started or job.done):
        return "start"
    if job.done:
        last = [event for event in ("completed", "output", "logs") if event in wanted]
        if not job.outputs and "output" in last:
            last.remove("output")
        return last[0] if last and END not in webhook.sent else ""
    return "logs" if "logs" in wanted and job.step > webhook.step else ""


def _pause(attempts: int) -> float:
    return float(min(2 ** (attempts - 1), 300))
