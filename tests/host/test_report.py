"""Sentences on nodes: what reaches the page when a node fails, and what is refused before anything runs."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.model_management
import pytest
from comfy_execution.utils import CurrentNodeContext


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What was sent to the page, as (text, node, client)."""
    sent: list[tuple[str, str, str]] = []
    instance = SimpleNamespace(
        client_id="page", send_progress_text=lambda *message: sent.append(message), send_sync=lambda *_: None
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    return sent


def test_every_node_reports(redux_nodes: dict[str, Any]) -> None:
    assert [name for name, node in redux_nodes.items() if not hasattr(node.execute.__func__, "__wrapped__")] == []


def test_the_sentence_stands_on_the_node_until_it_runs_well(
    redux_nodes: dict[str, Any], shown: list[tuple[str, str, str]]
) -> None:
    node = redux_nodes["ReduxSize"]
    with CurrentNodeContext("prompt", "7:3"):
        with pytest.raises(ValueError, match="is unknown") as caught:
            node.execute({"aspect_ratio": "7:5"})
        assert shown == [(str(caught.value), "7:3", "page")]
        node.execute({"aspect_ratio": "1:1"})
        node.execute({"aspect_ratio": "1:1"})
    assert shown[1:] == [("", "7:3", "page")]


def test_an_interrupt_is_no_error(pack: ModuleType, shown: list[tuple[str, str, str]]) -> None:
    from redux_control.nodes.host.report import report_errors

    class Node:
        @classmethod
        def execute(cls) -> None:
            raise comfy.model_management.InterruptProcessingException

    with CurrentNodeContext("prompt", "1"), pytest.raises(comfy.model_management.InterruptProcessingException):
        report_errors(Node).execute()
    assert shown == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("One.\nTwo."), "One."),
        (KeyError(), "KeyError without a message."),
        (OSError("x" * 500), "x" * 399 + "…"),
    ],
)
def test_only_a_sentence(error: Exception, sentence: str, pack: ModuleType) -> None:
    from redux_control.nodes.host.report import sentence_of

    assert sentence_of(error) == sentence


@pytest.mark.parametrize(
    ("node", "inputs", "part"),
    [
        ("ReduxApply", {"start_percent": 0.8, "end_percent": 0.2}, "from 0.8 to 0.2"),
        ("ReduxApply", {"start_percent": None, "end_percent": 0.0}, "from 0 to 0"),
        ("ReduxApply", {"strength": -1.0}, "-1"),
        ("ReduxApply", {"strength": float("nan")}, "nan"),
        ("ReduxApply", {"blocks": "triple:1=2"}, "triple:1=2"),
        ("ReduxApply", {"blocks": "double:19=0"}, "double: 0-18 exist"),
        ("ReduxEncode", {"fit": {"fit": "squeeze"}}, "choose one of stretch"),
        ("ReduxEncode", {"fit": {}}, "choose one of stretch"),
        ("ReduxMix", {"weights": "1, two"}, "1, two"),
        ("ReduxMix", {"weights": "1_0 1"}, "1_0 1"),
        ("ReduxMix", {"weights": "a" * 1000}, "a" * 59 + "…' cannot"),
        ("ReduxApply", {"blocks": "a" * 1000}, "a" * 59 + "…' cannot"),
        ("ReduxApply", {"preset": "a" * 1000}, "a" * 59 + "…'; choose"),
        ("ReduxSweep", {"what": "foo"}, "choose strength or end_percent"),
        ("ReduxSweep", {"what": ["foo"], "values": "1"}, "choose strength or end_percent"),
        ("ReduxSweep", {"values": "7" * 400, "what": "strength"}, "7" * 59 + "…' of the sweep is no number"),
        *(
            (node, {"filename_prefix": prefix}, "The prefix ")
            for node in ("ReduxCalibrate", "ReduxSaveImage", "ReduxSaveTokens", "ReduxSaveConditioning")
            for prefix in ("../p", "", "/p", "a/", "p" * 200, "../" + "p" * 1000)
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_before_it_runs(node: str, inputs: dict[str, Any], part: str, redux_nodes: dict[str, Any]) -> None:
    sentence = redux_nodes[node].validate_inputs(**inputs)
    assert isinstance(sentence, str) and part in sentence and sentence.endswith(".") and len(sentence) < 250


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("ReduxApply", {}),
        ("ReduxApply", {"strength": None, "start_percent": 0.5, "end_percent": None, "blocks": None}),
        ("ReduxApply", {"strength": 10.0, "blocks": "double:=0.5"}),
        ("ReduxEncode", {"fit": {"fit": "tiles", "rows": 2, "columns": 2, "token_budget": 1458}}),
        ("ReduxMix", {"weights": ""}),
        # Of a list in the place of a text ComfyUI says itself that it is no link.
        ("ReduxApply", {"blocks": ["a"]}),
        ("ReduxSweep", {"blocks": ["a"], "what": "strength"}),
        ("ReduxSweep", {"values": ["a"], "what": "strength"}),
        ("ReduxMix", {"weights": ["a"]}),
        ("ReduxRegions", {"layout": "drawn boxes", "boxes": ["a"]}),
        ("ReduxCalibrate", {"contents": ["a"], "styles": ["a"], "filename_prefix": ["a"]}),
        ("ReduxSaveImage", {"filename_prefix": None}),
        ("ReduxSaveTokens", {"filename_prefix": "a/%date:yyyy%"}),
    ],
    ids=str,
)
def test_what_is_good_is_let_through(node: str, inputs: dict[str, Any], redux_nodes: dict[str, Any]) -> None:
    assert redux_nodes[node].validate_inputs(**inputs) is True


def test_newer_pages_are_told_to_keep_the_sentence(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Any, ...]] = []
    instance = SimpleNamespace(
        client_id="page", send_progress_text=lambda *_: None, send_sync=lambda *message: sent.append(message)
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    pack.nodes.host.report.show_on_node("It is so.", "7:3")
    assert sent == [("redux.sentence", {"node": "7:3", "text": "It is so."}, "page")]
