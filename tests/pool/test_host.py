"""A worker's connections to its host: kept, made anew where the host has closed one, and no prompt is sent twice."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import caller  # noqa: F401  (the package that the modules are of)
import pytest

from api.pool.pack import load


def load_apart() -> Any:
    """The module, and nothing left of the stand-ins for ComfyUI's side that other tests could meet."""
    before = set(sys.modules)
    module = load("host")
    for name in set(sys.modules) - before:
        if name.startswith(("redux_control.nodes", "redux_control.redux")):
            del sys.modules[name]
    return module


hosts = load_apart()

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Host:
    """Answers each request with {}. It closes a connection without a word after the `leave`th request of it, answered
    or, where `answers_last` is False, unanswered."""

    def __init__(self) -> None:
        self.leave, self.answers_last = 1000, True
        self.requests: list[tuple[int, str]] = []
        """The number of the connection, and the first line."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.closed = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            number += 1
            threading.Thread(target=self._talk, args=(connection, number), daemon=True).start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as stream:
            for count in range(1, 1 + self.leave):
                first, length = stream.readline().decode().strip(), 0
                if not first:
                    return
                while line := stream.readline().strip().lower():
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                stream.read(length)
                self.requests.append((number, first.rpartition(" ")[0]))
                if count < self.leave or self.answers_last:
                    connection.sendall(ANSWER)
            connection.shutdown(socket.SHUT_RDWR)
        self.closed.set()


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.listener.close()


def client_of(host: Host) -> Any:
    return hosts.ComfyHost(f"http://127.0.0.1:{host.port}", "me")


def test_a_connection_is_kept(host: Host) -> None:
    client = client_of(host)
    for _ in range(3):
        assert client.ended("a") is None
    client.cancel("a")
    asked = [(1, "GET /history/a")] * 3 + [(1, "POST /queue"), (1, "POST /interrupt")]
    assert host.requests == asked
    client.submit("a", {})
    assert host.requests == [*asked, (2, "POST /prompt")]


def test_a_connection_that_the_host_has_closed_is_made_anew(host: Host) -> None:
    host.leave = 1
    client = client_of(host)
    assert client.ended("a") is None
    assert host.closed.wait(60)
    assert client.ended("b") is None
    assert host.requests == [(1, "GET /history/a"), (2, "GET /history/b")]


def test_a_prompt_is_never_sent_twice(host: Host) -> None:
    """The host may have taken it and lost the answer alone."""
    client = client_of(host)
    assert client.ended("a") is None
    host.leave, host.answers_last = 1, False
    with pytest.raises(hosts.HostAway):
        client.submit("a", {})
    assert [line for _, line in host.requests] == ["GET /history/a", "POST /prompt"]


def test_a_request_is_sent_twice_at_most(host: Host) -> None:
    host.leave, host.answers_last = 2, False
    client = client_of(host)
    assert client.ended("a") is None
    host.leave = 1
    with pytest.raises(hosts.HostAway):
        client.ended("b")
    assert host.requests == [(1, "GET /history/a"), (1, "GET /history/b"), (2, "GET /history/b")]
