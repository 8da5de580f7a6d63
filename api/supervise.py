"""Background work that outlives its errors, and the difference between a server that was stopped and one that died."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import threading
import types
from collections.abc import Awaitable, Callable
from contextlib import suppress

from .errors import ApiError

Step = Callable[[], Awaitable[None]]

RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


class Supervisor:
    """Runs steps again and again. What a step raises is logged once, however often it comes, and the next step runs."""

    def __init__(self) -> None:
        self.said: dict[str, Exception] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def attempt(self, name: str, step: Step) -> bool:
        """Whether one step went well."""
        try:
            await step()
        except Exception as error:
            self._say(name, error)
            return False
        if self.said.pop(name, None):
            log.warning("Redux API: %s is well again.", name)
        return True

    def repeat(self, name: str, step: Step, seconds: float = 0.0) -> None:
        """Run a step for ever, with `seconds` in between, and RETRY_SECONDS at least after an error."""

        async def run() -> None:
            while True:
                good = await self.attempt(name, step)
                await asyncio.sleep(seconds if good else max(seconds, RETRY_SECONDS))

        self.tasks.append(asyncio.create_task(run(), name=f"redux-api: {name}"))

    async def stop(self) -> None:
        """End all tasks. Asked again until they do: before Python 3.12 asyncio.wait_for may swallow one asking."""
        while running := [task for task in self.tasks if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=1)

    def _say(self, name: str, error: Exception) -> None:
        text, before = worded(error), self.said.get(name)
        if before and worded(before) == text:
            return
        self.said[name] = error
        expected = isinstance(error, (OSError, ApiError))
        trace = None if expected else error
        log.error("Redux API: %s: %s It is tried again.", name, error if expected else text, exc_info=trace)


def worded(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def on_deliberate_stop(callback: Callable[[], None]) -> None:
    """Call back when this process is asked to end (SIGTERM, Ctrl-C), and not when it is killed or crashes.

    ComfyUI ends without the cleaning-up of its web server, and on SIGTERM without anything.
    """
    pending = [callback]

    def once() -> None:
        if pending:
            with suppress(Exception):
                pending.pop()()

    atexit.register(once)
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:

        def end(number: int, _: types.FrameType | None) -> None:
            once()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, end)
