"""How far a host's prompts are, from its websocket: hints for callers who look, and when it is worth to ask the host.

Nothing depends on these: a host that tells nothing is asked all the same, only less soon.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress

import aiohttp

PAUSE_SECONDS = 1.0
SILENT_SECONDS = 30.0
NODE = "sample"


class Progress:
    """Listens in a thread, and again whenever the connection is lost.

    Args:
        url: of the ComfyUI.
        client: what the prompts of interest are marked with; ComfyUI tells their steps to the client of that name.

    Attributes:
        listens: whether the host would be heard, as far as is known.
    """

    def __init__(self, url: str, client: str) -> None:
        self.url, self.client = f"{url.rstrip('/')}/ws", client
        self.listens, self.last = False, ("", 0, 0)
        self.ended: tuple[str, threading.Event] = ("", threading.Event())
        self.thread = threading.Thread(target=self._run, daemon=True, name="progress")

    def start(self) -> Progress:
        self.thread.start()
        return self

    def of(self, prompt_id: str) -> tuple[int, int]:
        """Steps done and to do; (0, 0) where nothing is known."""
        known, step, steps = self.last
        return (step, steps) if known == prompt_id else (0, 0)

    def wait(self, prompt_id: str, seconds: float) -> bool:
        """Wait for so long, or until the host says that this prompt has ended, which it says once."""
        if self.ended[0] != prompt_id:
            self.ended = (prompt_id, threading.Event())
        event = self.ended[1]
        said = event.wait(seconds)
        if said:  # what is said just now, as the time is over, is for the next to wait
            event.clear()
        return said

    def _run(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
                    async with session.ws_connect(
                        self.url, params={"clientId": self.client}, heartbeat=SILENT_SECONDS, max_msg_size=0
                    ) as socket:
                        self.listens = True
                        async for message in socket:
                            if message.type == aiohttp.WSMsgType.TEXT:
                                self._note(message.data)
                self.listens = False
                await asyncio.sleep(PAUSE_SECONDS)

    def _note(self, text: str) -> None:
        """One message; what is no progress of ours, or odd, is left alone."""
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            message = json.loads(text)
            kind, data = message["type"], message["data"]
            if kind == "progress" and data.get("node") == NODE:
                self.last = (str(data["prompt_id"]), int(data["value"]), int(data["max"]))
            elif kind == "executing" and data.get("node") is None and data["prompt_id"] == self.ended[0]:
                self.ended[1].set()
