"""The references of jobs on the host: each is there from before its job is queued until no job needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from .backend import Backend
from .decoder import Decoded
from .errors import ApiError
from .supervise import Supervisor


class References:
    """Equal pictures share one file, so what a job ends with may be another's beginning.

    Args:
        named: the references that jobs name now.
    """

    def __init__(self, backend: Backend, supervisor: Supervisor, named: Callable[[], set[str]]) -> None:
        self.backend, self.supervisor, self.named = backend, supervisor, named
        self.arriving: Counter[str] = Counter()
        self.litter: set[str] = set()

    @asynccontextmanager
    async def hold(self, picture: Decoded) -> AsyncIterator[str]:
        """The name of a reference for an order, which has to be in the store when this ends, or is refused."""
        try:
            name = await self.backend.keep_input(picture.path, picture.digest)
        except OSError as error:
            picture.discard()
            raise ApiError(503, f"This server cannot keep the picture now ({error.strerror}).") from error
        self.arriving[name] += 1
        try:
            yield name
        finally:
            self.arriving[name] -= 1
            await self.drop(name)

    async def drop(self, name: str) -> None:
        """Remove a reference that nobody needs. What cannot be removed now is no reason to fail; see `retry`."""
        self.litter.discard(name)
        if not name or name in self._used():
            return
        if not await self.supervisor.attempt("removing references", partial(self.backend.drop_input, name)):
            self.litter.add(name)

    async def retry(self) -> None:
        for name in list(self.litter):
            await self.drop(name)

    async def sweep(self, before: float) -> None:
        """Remove what is older than a time and what no job names: a killed server has left it."""
        await self.backend.sweep(self._used(), before)

    def _used(self) -> set[str]:
        return self.named() | set(+self.arriving)
