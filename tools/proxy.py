"""A TCP proxy on this machine whose connections can be slow, cut or half open, for tests of what a bad network does."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType

PASS, SLOW, CUT, HALF_OPEN = "pass", "slow", "cut", "half open"
SLOW_SECONDS = 0.3
"""By which each piece is late."""
PIECE = 1 << 16


class Proxy:
    """Passes everything on to a port of this machine until `fault` is set.

    SLOW delays each piece; CUT ends all connections and takes no new ones; HALF_OPEN passes nothing and closes nothing,
    and connections of that time stay dead when it is over, as behind a router that has forgotten them.
    """

    def __init__(self, target: int) -> None:
        self.target, self.mode = target, PASS
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.pairs: list[Pair] = []
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fault(self, mode: str) -> None:
        with self.lock:
            self.mode = mode
            for pair in self.pairs:
                if mode == CUT:
                    pair.close()
                elif mode == HALF_OPEN:
                    pair.dead = True
            self.pairs = [pair for pair in self.pairs if not pair.over]

    def heal(self) -> None:
        self.fault(PASS)

    def close(self) -> None:
        self.fault(CUT)
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if self.mode == CUT:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self.target), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                pair = Pair(self, near, far, self.mode == HALF_OPEN)
                self.pairs.append(pair)
            pair.start()


class Pair:
    """The two ends of one connection. `dead` loses whatever comes; nobody is told."""

    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket, dead: bool) -> None:
        self.proxy, self.near, self.far, self.dead, self.over = proxy, near, far, dead, False

    def start(self) -> None:
        for source, sink in ((self.near, self.far), (self.far, self.near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        self.over = True
        for end in (self.near, self.far):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE):
                if self.proxy.mode == SLOW:
                    time.sleep(SLOW_SECONDS)
                if not self.dead:
                    sink.sendall(piece)
        if not self.dead:
            self.close()
