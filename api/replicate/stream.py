"""A prediction as Replicate's stream of server-sent events: its logs, its pictures, and how it ended.

The official clients open a stream without their key, so its address has a token of its own. It lies below /v1/files/
since the JavaScript client reads from there that the outputs are files.
"""

from __future__ import annotations

import json
import secrets
import time

from aiohttp import web

from ..dialect import Reply
from ..errors import ApiError
from ..gateway import Gateway
from ..jobs import COMPLETED, FAILED, Job

PATH = "/v1/files/streams/{token}"
LOOK_SECONDS = 0.3
ALIVE_SECONDS = 15.0


def draw_token() -> str:
    return secrets.token_hex(16)


def url_of_stream(base: str, job: Job) -> str | None:
    token = job.options.get("stream")
    return f"{base}{PATH.format(token=token)}" if token else None


async def stream(gateway: Gateway, request: web.Request) -> Reply:
    job = gateway.find_stream(request.match_info["token"])
    if job is None:
        raise ApiError(404, "There is no such stream, or no longer.")
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    with gateway.listener():
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        events = _Events(response)
        await events.send("logs", f"Using seed: {job.order.seed}\n")
        job = await _follow(gateway, events, job)
    if job.status == COMPLETED:
        for link in gateway.links(job, gateway.base_url(request)):
            await events.send("output", link)
    reason = {} if job.status == COMPLETED else {"reason": "error" if job.status == FAILED else "canceled"}
    if job.status == FAILED:
        await events.send("error", json.dumps({"detail": job.error}))
    await events.send("done", json.dumps(reason))
    return response


async def _follow(gateway: Gateway, events: _Events, job: Job) -> Job:
    """Tell of every step until the job is done, and that the connection lives while nothing happens."""
    step, told = 0, time.monotonic()
    while True:
        now = job.order.steps if job.status == COMPLETED else job.step
        if now > step:
            step, told = now, time.monotonic()
            await events.send("logs", f"{100 * step / max(1, job.order.steps):3.0f}%| {step}/{job.order.steps}\n")
        if job.done:
            return job
        if time.monotonic() - told > ALIVE_SECONDS:
            told = time.monotonic()
            await events.response.write(b": alive\n\n")
        job = await gateway.runner.wait(job, LOOK_SECONDS)


class _Events:
    """Numbers the events of one response."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response, self.count = response, 0

    async def send(self, event: str, data: str) -> None:
        lines = "".join(f"data: {line}\n" for line in data.split("\n"))
        await self.response.write(f"event: {event}\nid: {int(time.time())}:{self.count}\n{lines}\n".encode())
        self.count += 1
