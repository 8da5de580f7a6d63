"""Say on the node itself why it fails: the page shows an error's sentence only behind "View details"."""

from __future__ import annotations

import functools
import sys
from typing import Any

import comfy.model_management
from comfy_execution.utils import get_executing_context

LONGEST = 400
_failed: set[str] = set()  # nodes that show a sentence, so that the next run without an error takes it away
_noted: dict[str, str] = {}  # the notes that nodes show, so that their next run takes them away


def show_on_node(text: str, node_id: str | None = None) -> None:
    """Show a text on a node while the graph is open, in the page's classic rendering and in its newer one.

    Args:
        text: one sentence; "" takes it away.
        node_id: the node that is being run when None. Without a server (a script that calls nodes) nothing happens.
    """
    context = get_executing_context()
    node_id = node_id or (context.node_id if context else None)
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if node_id is not None and server is not None:
        server.send_progress_text(text, node_id, server.client_id)
        # Newer pages take all such texts away when a job ends; ours stay (web/sentences.js).
        server.send_sync("redux.sentence", {"node": node_id, "text": text}, server.client_id)


def note_on_node(text: str, node_id: str | None = None) -> None:
    """Show a sentence on a node, the one that is being run when None, behind earlier ones of this run, until it runs
    again."""
    context = get_executing_context()
    node_id = node_id or (context.node_id if context else None)
    if node_id is not None:
        before = _noted.get(node_id)
        _noted[node_id] = text = f"{before} {text}" if before else text
    show_on_node(text, node_id)


def note_of(node_id: str) -> str:
    """The sentence that a node shows; "" for none."""
    return _noted.get(node_id, "")


def forget_note(node_id: str) -> None:
    """Take the sentence off a node that runs again."""
    if _noted.pop(node_id, None):
        show_on_node("", node_id)


def report_errors(node: type[Any]) -> type[Any]:
    """Wrap a node's `execute` so that an error's sentence stands on the node before the error goes on its way."""
    execute = node.execute.__func__

    @functools.wraps(execute)
    def reporting(cls: type[Any], *args: Any, **inputs: Any) -> Any:
        context = get_executing_context()
        node_id = context.node_id if context else ""
        forget_note(node_id)
        try:
            output = execute(cls, *args, **inputs)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:
            _failed.add(node_id)
            show_on_node(sentence_of(error))
            raise
        if node_id in _failed:
            _failed.discard(node_id)
            show_on_node("")
        return output

    node.execute = classmethod(reporting)
    return node


def sentence_of(error: BaseException) -> str:
    """The first line of an error's message, or its kind when it has none."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else f"{type(error).__name__} without a message."
    return first if len(first) <= LONGEST else first[: LONGEST - 1] + "…"
