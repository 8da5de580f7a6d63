"""What a vendor's module hands to the server: its routes, and its words for a refusal and for a job.

Nothing here, nor in a vendor's module, knows what makes the pictures; that is behind the gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .errors import ApiError
from .jobs import Job

if TYPE_CHECKING:
    from .gateway import Gateway

Reply = web.StreamResponse | tuple[int, Any]
"""A finished response, or a status and what is sent as JSON; None is sent as an empty body."""

Answer = Callable[["Gateway", web.Request], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        reads_json: the body is JSON and is in `request["body"]` when the answer is asked for.
        is_open: needs no key, because its path cannot be guessed.
    """

    method: str
    path: str
    answer: Answer
    reads_json: bool = False
    is_open: bool = False


@dataclass(frozen=True)
class Dialect:
    """Paths that are answered in one way of speaking.

    Attributes:
        prefixes: whatever lies below these is answered in this shape, known or not.
    """

    prefixes: tuple[str, ...]
    routes: tuple[Route, ...]
    shape_error: Callable[[ApiError], dict[str, Any]]


@dataclass(frozen=True)
class Vendor(Dialect):
    """A dialect in which jobs are made.

    Attributes:
        name: as jobs have it.
        describe: a job as webhooks carry it, from the gateway, the address that its caller used, and the job.
        sign: the header `webhook-signature` from a caller's secret (in base64) and what is signed.
    """

    name: str
    describe: Callable[[Gateway, str, Job], dict[str, Any]]
    sign: Callable[[str, bytes], str]
