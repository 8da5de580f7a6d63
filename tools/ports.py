"""Ports of this machine for servers that are started, killed and started again at the same place."""

from __future__ import annotations

import socket
from pathlib import Path
from random import SystemRandom

from .errors import ToolError

FIRST, LAST = 20_000, 49_151
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Where Linux says which ports it gives to connections' own ends; elsewhere these begin behind LAST."""
ENOUGH = 1000

_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 at which nobody listens, another one at each call.

    It is none of those that the system gives to connections' own ends, where there are others: one of these may be
    taken by the very caller that looks for a server which is away for a moment, and the server cannot come back.
    """
    places = range(FIRST, _first_ephemeral())
    if len(places) >= ENOUGH:
        random = SystemRandom()  # tests may have seeded the other one
        for _ in range(ENOUGH):
            port = random.choice(places)
            if port not in _given and is_free(port):
                _given.add(port)
                return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> int:
    """Raises ToolError where there is no such port; 0 stands for a free one."""
    if not 0 <= port <= 65_535:
        raise ToolError(f"There is no port {port}; a number from 1 to 65535 is needed, or 0 to have a free one.")
    return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _first_ephemeral() -> int:
    try:
        return min(int(EPHEMERAL.read_text("ascii").split()[0]), LAST + 1)
    except (OSError, ValueError, IndexError):
        return LAST + 1
