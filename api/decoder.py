"""Pictures are decoded by other processes (decode.py), so that one which takes too long or too much ends alone.

A process is kept for the next picture: starting one takes some 100 ms. What is decoded at once is bounded in pixels
as well as in processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ApiError
from .settings import Settings

PROGRAM = Path(__file__).with_name("decode.py")
PROCESSES = 2
CLOCK_FACTOR = 4.0
"""How much longer than the processor time a picture may take by the clock, for machines that are busy."""
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Decoded:
    """A PNG file of pixels alone, in RGB or RGBA, and its SHA-256."""

    path: Path
    digest: str

    def discard(self) -> None:
        """Nobody takes it over."""
        _unlink(self.path)


class PixelBudget:
    """Bounds what is admitted at once; first come, first served, so that a large picture is not passed for ever."""

    def __init__(self, pixels: int) -> None:
        self.pixels = self.free = pixels
        self.turn, self.freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def take(self, pixels: int) -> AsyncIterator[None]:
        pixels = min(pixels, self.pixels)
        async with self.turn:
            while self.free < pixels:
                self.freed.clear()
                await self.freed.wait()
            self.free -= pixels
        try:
            yield
        finally:
            self.free += pixels
            self.freed.set()


class Decoder:
    """`decode` may be called at any time and by any number of tasks of one event loop.

    Args:
        settings: `max_megapixels` bounds a picture and all that are decoded at once; `decode_seconds` is the processor
            time that a picture may take.
    """

    def __init__(self, settings: Settings) -> None:
        self.max_megapixels, self.seconds = settings.max_megapixels, settings.decode_seconds
        self.budget = PixelBudget(int(settings.max_megapixels * 1e6))
        self.places = asyncio.Semaphore(PROCESSES)
        self.idle: list[asyncio.subprocess.Process] = []

    async def decode(self, content: bytes, field: str, folder: Path) -> Decoded:
        """A picture as a new file in a folder, which is the caller's to move or remove.

        Raises:
            ApiError: 400 with the field's name, it is not taken; 503, it cannot be written.
        """
        path = folder / f"{PARTIAL}{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            async with self.places, self._process() as process:
                answer = await self._ask(process, content, path)
            if "digest" in answer:
                return Decoded(path, answer["digest"])
        except BaseException as error:
            _unlink(path)
            if isinstance(error, OSError):
                raise _unwritten(error.strerror or str(error)) from error
            raise
        _unlink(path)
        if "unwritten" in answer:
            raise _unwritten(answer["unwritten"])
        raise ApiError(400, f"{field} {answer['refused']}", field)

    async def close(self) -> None:
        while self.idle:
            await _end(self.idle.pop())

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """A process that is kept when it has answered, and ended when not."""
        process = self.idle.pop() if self.idle else await _start()
        if process.returncode is not None:
            process = await _start()
        try:
            yield process
        except BaseException:
            await _end(process)
            raise
        if process.returncode is None:
            self.idle.append(process)

    async def _ask(self, process: asyncio.subprocess.Process, content: bytes, path: Path) -> dict[str, Any]:
        wish = {"bytes": len(content), "path": str(path), "max_megapixels": self.max_megapixels}
        wish["seconds"] = self.seconds
        clock = CLOCK_FACTOR * self.seconds
        try:
            answer = await asyncio.wait_for(_exchange(process, json.dumps(wish).encode() + b"\n" + content), clock)
            if "pixels" in answer:
                async with self.budget.take(answer["pixels"]):
                    answer = await asyncio.wait_for(_exchange(process, b"go\n"), clock)
        except (asyncio.TimeoutError, EOFError, ConnectionError):
            await _end(process)
            return {"refused": f"takes more than {self.seconds:g} s, or too much memory, to decode."}
        return answer


async def _start() -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), stdin=pipe, stdout=pipe, env=environ)


async def _exchange(process: asyncio.subprocess.Process, words: bytes) -> dict[str, Any]:
    assert process.stdin and process.stdout
    process.stdin.write(words)
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return dict(json.loads(line))


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _unwritten(reason: str) -> ApiError:
    return ApiError(503, f"This server cannot keep the picture now ({reason}); try again later.")
