"""Ctrl-C, SIGTERM and a closed terminal end a program as an exception does, so that contexts are left in order.

    end_on_signals()
    while work():
        end_if_asked()

What a signal raises is lost where Python runs a destructor in that moment, or a callback of a weak reference: all of a
collection of garbage before the first destructor that it calls is such a moment, and event loops have destructors. So
the signal is noted too, and whatever goes on for long asks for the note.
"""

from __future__ import annotations

import signal
import sys
import types
from typing import Any

_asked: list[int] = []


def end_on_signals() -> None:
    """Begin to heed the signals; those that this process was started to ignore it ignores."""
    _asked.clear()

    def end(number: int, _: types.FrameType | None) -> None:
        _asked.append(number)
        end_if_asked()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    _hush(sys.unraisablehook)


def _hush(tell: Any) -> None:
    """Let nothing be said of an exception that is lost, since it is raised again."""

    def tell_others(lost: Any) -> None:
        if not (_asked and issubclass(lost.exc_type, (KeyboardInterrupt, SystemExit))):
            tell(lost)

    sys.unraisablehook = tell_others


def end_if_asked() -> None:
    """Raise what the last signal has raised.

    Raises:
        KeyboardInterrupt: it was Ctrl-C.
        SystemExit: it was another; its status is the one of a shell.
    """
    if _asked:
        raise KeyboardInterrupt if _asked[-1] == signal.SIGINT else SystemExit(128 + _asked[-1])
