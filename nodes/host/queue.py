"""ComfyUI's own queue from inside the server: put a workflow in, hear how it goes, take it out again.

A prompt's events come the way they come to a page, as messages for a client id; ours is answered by an object in the
place of a page's websocket.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import comfy.model_management
import execution
from server import PromptServer

from .history import Ended, read_history
from .prompt_graph import Prompt

OnEvent = Callable[[str, dict[str, Any]], None]


class HostQueue:
    def __init__(self, on_event: OnEvent) -> None:
        self.server = PromptServer.instance
        self.queue = self.server.prompt_queue
        self.client_id = f"redux-api-{uuid.uuid4().hex}"
        self.server.sockets[self.client_id] = _Listener(on_event)
        self.server.sockets_metadata[self.client_id] = {"feature_flags": {}}

    async def check(self, prompt_id: str, prompt: Prompt) -> tuple[list[str], str]:
        """ComfyUI's own validation: the output nodes to run, and one sentence when there is something wrong."""
        valid, error, outputs, problems = await execution.validate_prompt(prompt_id, prompt, None)
        return list(outputs), "" if valid and not problems else _first_problem(error, problems)

    def put(self, prompt_id: str, prompt: Prompt, outputs: list[str]) -> None:
        """Queue a checked workflow behind all others."""
        number = self.server.number
        self.server.number += 1
        extra = {"client_id": self.client_id, "create_time": int(time.time() * 1000)}
        self.queue.put((number, prompt_id, prompt, extra, outputs, {}))

    def running(self) -> dict[str, bool]:
        """The ids of prompts that are not done, and whether they run already."""
        running, queued = self.queue.get_current_queue_volatile()
        return {item[1]: False for item in queued} | {item[1]: True for item in running}

    def finished(self, prompt_id: str) -> Ended | None:
        """How a prompt ended; None before its end, and after somebody cleared the history."""
        entry = self.queue.get_history(prompt_id=prompt_id, map_function=dict).get(prompt_id)
        return None if entry is None else read_history(entry)

    def remove(self, prompt_id: str) -> bool:
        """Take a waiting prompt out of the queue; False when it does not wait."""
        return bool(self.queue.delete_queue_item(lambda item: item[1] == prompt_id))

    def interrupt(self, prompt_id: str) -> None:
        """Stop a prompt if it is the one that runs."""
        with self.queue.mutex:  # so that the next prompt cannot have begun in between
            if any(item[1] == prompt_id for item in self.queue.currently_running.values()):
                comfy.model_management.interrupt_current_processing()


class _Listener:
    """Takes the place of a websocket in the server's table of clients."""

    def __init__(self, on_event: OnEvent) -> None:
        self.on_event = on_event

    async def send_json(self, message: dict[str, Any]) -> None:
        self.on_event(str(message.get("type")), message.get("data") or {})

    async def send_bytes(self, message: bytes) -> None:
        """Previews; nobody here looks at them."""


def _first_problem(error: dict[str, Any] | None, problems: dict[str, Any]) -> str:
    for problem in problems.values():
        first = problem["errors"][0]
        return f"{problem['class_type']}: {first['message']}: {first['details']}"
    return f"{(error or {}).get('message', 'ComfyUI refuses the workflow')}"
