"""What ComfyUI's history says of a prompt, read inside the server or over HTTP. Nothing here needs ComfyUI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """The end of a prompt: what its nodes reported by node id, or why it failed; `started` in seconds since 1970."""

    succeeded: bool
    interrupted: bool
    outputs: dict[str, dict[str, Any]]
    error: str
    started: float | None


def read_history(entry: dict[str, Any]) -> Ended:
    """An entry of the history. Its status has messages as pairs of a name and what is told."""
    status = entry["status"] or {}
    messages = dict(status.get("messages", []))
    error = str(messages.get("execution_error", {}).get("exception_message", "")).strip()
    interrupted = "execution_interrupted" in messages
    began = messages.get("execution_start", {}).get("timestamp")
    started = began / 1000 if began else None
    return Ended(bool(status.get("completed")), interrupted, entry["outputs"] or {}, error, started)
