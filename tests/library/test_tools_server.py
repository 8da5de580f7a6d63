"""A headless ComfyUI: its start, its failures in one sentence, and that it never outlives us."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_comfyui import make_comfyui

from tools import host
from tools.errors import ToolError
from tools.ports import free_port
from tools.server import Server, last_error

ROOT = Path(__file__).resolve().parents[2]


class TestServer:
    def serve(self, tmp_path: Path, mode: str = "", port: int = 0, own: bool = False) -> Server:
        path = make_comfyui(tmp_path / "ComfyUI")
        return Server(host.Host(path, "0.30.0", own), tmp_path / "base", port=port, arguments=[mode])

    def test_starts_and_stops(self, tmp_path: Path) -> None:
        with self.serve(tmp_path) as server:
            process = server.process
            assert process is not None and process.poll() is None
            assert (tmp_path / "base" / "custom_nodes" / "redux-control").resolve() == ROOT
        assert process.poll() is not None
        assert server.explain_end() is not None

    def test_a_killed_server_is_said_to_be_killed(self, tmp_path: Path) -> None:
        """And not by an error that a job has had before."""
        with self.serve(tmp_path) as server:
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            server.log.write_text("ValueError: of a job\n")
            assert "was killed by SIGKILL, as a system does that has no memory left" in str(server.explain_end())

    def test_early_death_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match="ended at its start: ImportError: no module of that kind") as caught:
            self.serve(tmp_path, "die").start()
        assert "\n" not in str(caught.value)

    def test_a_server_without_the_pack_is_refused_and_stopped(self, tmp_path: Path) -> None:
        server = self.serve(tmp_path, "no-pack")
        with pytest.raises(ToolError, match="runs without this pack"):
            server.start()
        assert server.process is None
        assert connects(server.port) is False

    def test_a_log_is_gone_on_with_and_its_errors_are_of_this_run(self, tmp_path: Path) -> None:
        """Also beside a server that still writes to it: docs/service.md says to watch this file."""
        with self.serve(tmp_path) as first:
            first.log.write_text("ValueError: of the first\n")
            with pytest.raises(ToolError, match="ended at its start: ImportError"):
                Server(first.host, first.folder, arguments=["die"]).start()
        with Server(first.host, first.folder, arguments=[""]) as third:
            assert "of the first" in third.log.read_text("utf-8") and b"\0" not in third.log.read_bytes()
            third.stop()
            assert "of the first" not in str(third.explain_end())

    @pytest.mark.parametrize("port", [-1, 65_536, 99_999])
    def test_no_port(self, port: int, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match=f"There is no port {port}; a number from 1 to 65535 is needed, or 0"):
            self.serve(tmp_path, port=port).start()

    def test_a_taken_port(self, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            with pytest.raises(ToolError, match=r"Port \d+ is taken"):
                self.serve(tmp_path, port=other.getsockname()[1]).start()

    def test_a_port_taken_meanwhile_is_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            ports = [other.getsockname()[1], free_port()]
            # The other one answers nothing, so only the child's own complaint tells that the port is taken.
            monkeypatch.setattr("tools.server.free_port", lambda: ports.pop(0))
            monkeypatch.setattr("tools.server.Server._get", alive_after_its_log)
            with self.serve(tmp_path) as server:
                assert ports == []
                assert server.process is not None and server.process.poll() is None

    def test_the_models_of_the_user_are_listed(self, tmp_path: Path) -> None:
        server = self.serve(tmp_path, own=True)
        (tmp_path / "base").mkdir()
        listed = json.loads(server._list_own_models().read_text())["own"]
        assert listed == {"base_path": str(tmp_path / "ComfyUI" / "models"), "clip_vision": "clip_vision/"}
        assert not (tmp_path / "ComfyUI" / "custom_nodes").exists()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
    def test_never_outlives_its_parent(self, number: signal.Signals, tmp_path: Path) -> None:
        make_comfyui(tmp_path / "ComfyUI")
        code = f"""
import sys, time
from collections.abc import Callable
from pathlib import Path
from tools.host import Host
from tools.server import Server
base = Path({str(tmp_path)!r})
with Server(Host(base / "ComfyUI", "0.30.0", False), base / "base", arguments=[""]) as server:
    print(server.port, flush=True)
    time.sleep(60)
"""
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert parent.stdout is not None
            port = int(parent.stdout.readline())
            assert connects(port)
            parent.send_signal(number)
            parent.wait(60)
            assert within(60, lambda: not connects(port))
        finally:
            parent.kill()
            parent.wait()


def test_the_telling_line_of_a_log() -> None:
    log = "Starting\nTraceback (most recent call last):\n  x\nValueError: bad value\nShutting down\n"
    assert last_error(log) == "ValueError: bad value"
    assert last_error("usage: x\nmain.py: error: unrecognized arguments: --y\n") == (
        "main.py: error: unrecognized arguments: --y"
    )
    assert last_error("Starting\n\n") == "Starting"
    assert last_error("") == "it wrote nothing"


def alive_after_its_log(server: Server, _: str) -> object:
    """Stands for an HTTP answer: the process has come so far as to have its port, or has ended."""
    process = server.process
    assert process is not None
    assert within(60, lambda: process.poll() is not None or "listening" in server.log.read_text("utf-8"))
    return {"found": True} if process.poll() is None else None


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
