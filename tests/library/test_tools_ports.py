"""Ports for servers that come and go: none that a connection's own end may be given, and none twice."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tools import ports


def test_a_port_is_nobodys_and_given_once() -> None:
    found = [ports.free_port() for _ in range(50)]
    assert len(set(found)) == 50 and all(map(ports.is_free, found))


@pytest.mark.parametrize(("told", "below"), [("32768\t60999\n", 32768), ("30000 65535\n", 30000), ("", 49152)])
def test_no_port_that_a_connection_may_be_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, below: int
) -> None:
    (tmp_path / "range").write_text(told, "ascii")
    monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "range")
    assert all(ports.FIRST <= ports.free_port() < below for _ in range(50))


def test_where_all_may_be_given_any_free_one_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "range").write_text("1024\t65535\n", "ascii")
    monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "range")
    assert ports.is_free(ports.free_port())


def test_a_taken_port_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports.is_free(server.getsockname()[1])
