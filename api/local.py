"""The backend of one machine: ComfyUI's own queue in this process, and its input and output folders."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..nodes.host.queue import HostQueue
from .backend import QUEUED, RUNNING, State
from .errors import ApiError
from .history import read_end
from .jobs import Job
from .prompt import Prompt, build_prompt
from .settings import Settings

FOLDER = "redux-api"


class LocalBackend:
    """See backend.Backend.

    Args:
        inputs, outputs: ComfyUI's folders; references and pictures lie in their sub-folder redux-api.
    """

    outlives_server = False

    def __init__(self, settings: Settings, inputs: Path, outputs: Path) -> None:
        self.settings, self.inputs, self.outputs = settings, inputs, outputs

    @property
    def scratch(self) -> Path:
        return self.inputs / FOLDER

    def listen(self, stir: Callable[[], None], progress: Callable[[str, int, int], None]) -> None:
        def hear(kind: str, data: dict[str, Any]) -> None:
            """An event of one of our prompts, as a page would get it."""
            if kind == "progress" and data.get("node") == "sample":
                id = str(data.get("prompt_id", "")).replace("-", "")
                progress(id, int(data["value"]), int(data["max"]))
            stir()

        self.host = HostQueue(hear)

    async def check(self, job: Job) -> tuple[Prompt, list[str]]:
        settings, prefix = self.settings, f"{FOLDER}/{job.id}"
        prompt = build_prompt(job.order, settings.models, prefix, settings.safety_threshold, settings.embed_workflow)
        outputs, problem = await self.host.check(_prompt_id(job.id), prompt)
        if problem:
            raise ApiError(503, f"This server cannot run the model: {problem}.")
        return prompt, outputs

    async def submit(self, job: Job, checked: tuple[Prompt, list[str]]) -> None:
        self.host.put(_prompt_id(job.id), *checked)

    async def cancel(self, job: Job) -> bool:
        if self.host.remove(_prompt_id(job.id)):
            return True
        self.host.interrupt(_prompt_id(job.id))
        return False

    async def poll(self, ids: Collection[str]) -> dict[str, State]:
        # The queue first, the history after it: a prompt is always in one of them, so what is in neither is gone.
        running = self.host.running()
        found: dict[str, State] = {}
        for id in ids:
            prompt_id = _prompt_id(id)
            if prompt_id in running:
                found[id] = RUNNING if running[prompt_id] else QUEUED
            elif (end := self.host.finished(prompt_id)) is not None:
                found[id] = read_end(end)
        return found

    async def keep_input(self, path: Path, digest: str) -> str:
        name = f"{digest[:32]}.png"
        os.replace(path, self.inputs / FOLDER / name)
        return f"{FOLDER}/{name}"

    async def drop_input(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.inputs / name)

    async def output(self, name: str) -> Path | None:
        path = self.outputs / name
        return path if path.is_file() else None

    async def remove_output(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.outputs / name)

    async def clear(self, job: Job) -> None:
        for path in (self.outputs / FOLDER).glob(f"{job.id}_*"):
            path.unlink(missing_ok=True)

    async def sweep(self, used: Collection[str], before: float) -> None:
        await asyncio.to_thread(self._sweep, frozenset(used), before)

    def _sweep(self, used: Collection[str], before: float) -> None:
        failed = None
        for path in (self.inputs / FOLDER).glob("*"):
            try:
                if f"{FOLDER}/{path.name}" not in used and path.stat().st_mtime < before:
                    path.unlink(missing_ok=True)
            except OSError as error:  # the others first
                failed = error
        if failed:
            raise failed


def _prompt_id(id: str) -> str:
    return str(uuid.UUID(id))
