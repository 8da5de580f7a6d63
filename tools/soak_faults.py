"""What may befall a server of the endpoints, one function each."""

from __future__ import annotations

import base64
import os
import signal
import socket
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from . import bombs
from .server import Server
from .small_disk import SmallDisk
from .soak_callers import V3, post

SECONDS = 4.0
SLOW_BODIES = 20


@dataclass
class World:
    """`sample` waits for a moment."""

    server: Server
    disk: SmallDisk
    restart: Callable[[], None]
    sample: Callable[[], None]

    def pass_time(self, seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.sample()

    @property
    def pid(self) -> int:
        assert self.server.process is not None
        return self.server.process.pid


def kill(world: World) -> None:
    process = world.server.process
    assert process is not None
    os.kill(world.pid, signal.SIGKILL)
    process.wait()
    world.server.stop()
    world.restart()


def stop(world: World) -> None:
    world.server.stop()
    world.restart()


def fill_disk(world: World) -> None:
    with world.disk.full(world.pid):
        world.pass_time()


def protect_folders(world: World) -> None:
    (world.disk.folder / "input" / "redux-api").mkdir(exist_ok=True)
    with world.disk.read_only(world.disk.folder / "input", world.disk.folder / "output"):
        world.pass_time()


def send_slowly(world: World) -> None:
    """Half a body each on many connections, which then say nothing more."""
    place = urllib.parse.urlsplit(world.server.url)
    head = (
        f"POST {V3} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    )
    connections: list[socket.socket] = []
    with suppress(OSError):
        for _ in range(SLOW_BODIES):
            connections.append(socket.create_connection((place.hostname or "", place.port or 0), 5))
            connections[-1].sendall(head.encode() + b'\r\n{"image": "')
    world.pass_time()
    for connection in connections:
        connection.close()


def throw_bombs(world: World) -> None:
    pictures = [bombs.jpeg_of_scans(2000, 1800), bombs.bmp_of_runs(4_000_000, 4, ends=4)]
    pictures += [bombs.png_of_nothing(4000, 4000), bombs.png_of_nothing(100_000, 100_000 // 20)]
    for picture in pictures:
        with suppress(OSError):
            post(world.server.url, V3, {"image": base64.b64encode(picture).decode(), "num_inference_steps": 1})
    with suppress(OSError):
        post(world.server.url, V3, raw=bombs.json_of_lists(3 << 20))
    world.sample()


ENDINGS = ("killed", "stopped and started")
FAULTS: dict[str, Callable[[World], None]] = {
    "killed": kill,
    "stopped and started": stop,
    "disk full": fill_disk,
    "folders read-only": protect_folders,
    "slow bodies": send_slowly,
    "bombs": throw_bombs,
}
