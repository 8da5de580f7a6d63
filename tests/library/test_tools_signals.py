"""A signal ends a tool, also where the exception that it raised was lost."""

from __future__ import annotations

import gc
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_comfyui import make_comfyui

from tools import demo, signals
from tools.client import Client, Result
from tools.host import Host
from tools.server import Server
from tools.signals import end_if_asked, end_on_signals

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # nothing is said of it
ENDS = pytest.mark.parametrize(
    ("number", "end", "status"),
    [(signal.SIGINT, KeyboardInterrupt, 130), (signal.SIGTERM, SystemExit, 143)],
    ids=["SIGINT", "SIGTERM"],
)


class Thing:
    """Its going away is called back."""


def lose(number: int) -> None:
    """A signal whose exception nobody sees, since Python calls back a weak reference in that moment."""
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
    del thing
    assert reference() is None


@pytest.fixture(autouse=True)
def heeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(signals, "_asked", [])
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)
    end_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@ENDS
def test_what_was_lost_is_raised_when_it_is_asked_for(number: int, end: type[BaseException], status: int) -> None:
    end_if_asked()
    lose(number)
    with pytest.raises(end):
        end_if_asked()


@ENDS
def test_no_picture_is_begun_any_more(number: int, end: type[BaseException], status: int) -> None:
    lose(number)
    with pytest.raises(end):
        Client("http://127.0.0.1:1").run({})


@ENDS
def test_no_server_is_waited_for_any_more(
    number: int, end: type[BaseException], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "_get", lambda *_: lose(number))
    server = Server(Host(make_comfyui(tmp_path / "ComfyUI"), "0.30.0", False), tmp_path / "base", arguments=[""])
    with pytest.raises(end):
        server.start()
    assert server.process is None


@ENDS
def test_the_demo_does_not_end_well(
    number: int, end: type[BaseException], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(_: object) -> Path:
        lose(number)
        return tmp_path / "sheet.png"

    monkeypatch.setattr(demo, "make", make)
    monkeypatch.setattr("sys.argv", ["demo"])
    with pytest.raises(SystemExit) as caught:
        demo.main()
    assert caught.value.code == status


@ENDS
def test_one_that_comes_while_a_workflow_runs_is_told_once(
    number: int,
    end: type[BaseException],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run(*_: object) -> Result:
        os.kill(os.getpid(), number)
        return Result("the prompt")

    monkeypatch.setattr(Client, "_run", run)
    with pytest.raises(end):
        Client("http://127.0.0.1:1").run({})
    gc.collect()
    assert not caplog.records


def test_what_a_process_was_started_to_ignore_it_ignores() -> None:
    """As a shell's background job ignores Ctrl-C, and what nohup starts a closed terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_on_signals()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
