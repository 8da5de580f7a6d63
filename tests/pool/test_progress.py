"""What a host tells by its websocket, and that nothing odd that it tells does harm."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from caller import load

progress = load("pool.progress")


class Teller:
    """A websocket server in a thread that says what it is told to say."""

    def __enter__(self) -> Teller:
        self.loop, self.sockets, self.clients = asyncio.new_event_loop(), list[web.WebSocketResponse](), list[str]()
        ready = threading.Event()

        async def socket(request: web.Request) -> web.WebSocketResponse:
            answer = web.WebSocketResponse()
            await answer.prepare(request)
            self.clients.append(request.query["clientId"])
            self.sockets.append(answer)
            async for _ in answer:
                pass
            return answer

        async def start() -> None:
            app = web.Application()
            app.router.add_get("/ws", socket)
            self.runner = web.AppRunner(app, shutdown_timeout=0.1)
            await self.runner.setup()
            site = web.TCPSite(self.runner, "127.0.0.1", 0)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            ready.set()

        def run() -> None:
            self.loop.run_until_complete(start())
            self.loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        assert ready.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result(120)
        self.loop.call_soon_threadsafe(self.loop.stop)

    def say(self, *messages: Any) -> None:
        async def send() -> None:
            for message in messages:
                text = message if isinstance(message, str) else json.dumps(message)
                await self.sockets[-1].send_str(text)
            await self.sockets[-1].send_bytes(b"a preview")

        asyncio.run_coroutine_threadsafe(send(), self.loop).result(120)

    def cut(self) -> None:
        asyncio.run_coroutine_threadsafe(self.sockets[-1].close(), self.loop).result(120)


@pytest.fixture
def teller() -> Iterator[Teller]:
    with Teller() as made:
        yield made


def until(holds: Any) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def step(value: Any, prompt_id: str = "p", node: str = "sample") -> dict[str, Any]:
    return {"type": "progress", "data": {"node": node, "prompt_id": prompt_id, "value": value, "max": 4}}


END = {"type": "executing", "data": {"node": None, "prompt_id": "p"}}


def test_steps_and_the_end(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0.05)
    listener = progress.Progress(f"http://127.0.0.1:{teller.port}/", "redux-pool-a").start()
    until(lambda: teller.clients == ["redux-pool-a"])
    assert listener.of("p") == (0, 0) and not listener.wait("p", 0.01)
    odd = ["{", "[]", "null", '"x"', {"type": "progress"}, {"type": "progress", "data": []}, step("x"), step(None)]
    teller.say(*odd, step(2), step(9, node="decode"))
    until(lambda: listener.of("p") == (2, 4))
    assert listener.of("another") == (0, 0)
    teller.say(
        {"type": "executing", "data": {"node": "x", "prompt_id": "p"}},
        {**END, "data": {**END["data"], "prompt_id": "q"}},
    )
    assert not listener.wait("p", 0.1)
    began = time.monotonic()
    threading.Timer(0.1, teller.say, [END]).start()
    assert listener.wait("p", 600) and time.monotonic() - began < 300
    assert not listener.wait("p", 0.01)  # it is said once
    teller.cut()
    until(lambda: len(teller.clients) == 2)
    teller.say(step(3))
    until(lambda: listener.of("p") == (3, 4))


class Late(threading.Event):
    """Set in the moment in which the time to wait is over."""

    def wait(self, timeout: float | None = None) -> bool:
        said = self.is_set()
        self.set()
        return said


def test_an_end_that_is_said_as_the_time_is_over_is_not_lost() -> None:
    listener = progress.Progress("http://127.0.0.1:9", "a")
    listener.ended = ("p", Late())
    assert not listener.wait("p", 0.0)
    assert listener.wait("p", 0.0)


def test_a_host_without_a_websocket_is_only_asked_less_soon() -> None:
    listener = progress.Progress("http://127.0.0.1:9", "a").start()
    began = time.monotonic()
    assert not listener.wait("p", 0.05) and time.monotonic() - began < 60
    assert listener.of("p") == (0, 0) and listener.thread.is_alive()
