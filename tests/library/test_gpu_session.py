"""The run of everything that needs a GPU: no step costs another one, and the figures fill a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tools import gpu_session, gpu_tables
from tools.errors import ToolError
from tools.gpu_session import Outcome, Session, Step

SCRIPT = "import json, pathlib, sys; print('3 passed in 1.0s'); pathlib.Path(sys.argv[1]).write_text('{\"a\": 1}')"


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    script = tmp_path / "works.py"
    script.write_text(SCRIPT)
    (tmp_path / "fails.py").write_text("print('no card'); raise SystemExit(3)")
    steps = (
        Step("library", f"{script} {{json}}", 5, beside=True),
        Step("host", f"{tmp_path / 'fails.py'}", 5, beside=True),
        Step("kept", f"{script} {{json}}", 5),
        Step("kontext", f"{script} {{json}}", 1000),
        Step("two-gpus", f"{script} {{json}}", 5, gpus=99),
    )
    monkeypatch.setattr(gpu_session, "STEPS", steps)
    arguments = argparse.Namespace(comfyui=tmp_path, output=tmp_path, seconds=100, only=[], small=False)
    return Session(arguments, tmp_path)


def test_a_step_costs_no_other(session: Session, tmp_path: Path) -> None:
    found = {outcome.name: outcome for outcome in session.run()}
    assert found["library"].verdict == found["kept"].verdict == "ok" and found["kept"].figures == {"a": 1}
    assert found["host"].verdict == "FAILED: exit status 3" and found["host"].last == ["no card"]
    assert (
        "of 1000 s are left" in found["kontext"].verdict and found["two-gpus"].verdict == "left out: it needs 99 GPUs"
    )
    gpu_session.write(tmp_path, list(found.values()))
    assert "3 passed in 1.0s" in (tmp_path / "session.log").read_text()
    assert [step["name"] for step in json.loads((tmp_path / "session.json").read_text())["steps"]] == list(found)


def test_every_step_is_a_file_or_a_module_that_is_there(root: Path) -> None:
    for step in gpu_session.STEPS:
        word, *rest = step.command.split()
        name = rest[0].replace(".", "/") + ".py" if word == "-m" and rest[0] != "pytest" else word
        assert word == "-m" or (root / name).exists()
        assert all((root / word).exists() for word in rest if word.startswith("tests/"))


def test_the_page_is_filled_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    page.write_text(f"before\n{gpu_tables.MARKS[0]}\nold\n{gpu_tables.MARKS[1]}\nafter\n")
    with pytest.raises(ToolError, match=r"There is no session.json in "):
        gpu_tables.fill(tmp_path, page)
    kontext = [
        {"group": "1 MP, 1 picture", "name": "core, plain", "ms": 200.0},
        {"group": "1 MP, 1 picture", "name": "even", "ms": 210.0},
    ]
    encode = {"memory": "static", "ms": {"1": {"Encode Reference": 12.0}, "8": {"Encode Reference": 40.0}}}
    outcomes = [
        Outcome("kontext", 75, "ok", 70.0, ["done"], kontext),
        Outcome("encode-static", 25, "FAILED: exit status 1", 7.0, ["2 passed, 1 failed"], encode),
    ]
    gpu_session.write(tmp_path, outcomes)
    for _ in range(2):
        gpu_tables.fill(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.count("| even | 210 (1.05) |") == 1 and "| Encode Reference | 12.0 | 40.0 |" in text
    assert "FAILED: exit status 1" in text
    page.write_text("no marks")
    with pytest.raises(ToolError, match="lacks the lines"):
        gpu_tables.fill(tmp_path, page)


def test_the_docs_have_the_marks(root: Path) -> None:
    text = (root / "docs" / "gpu.md").read_text("utf-8")
    assert all(text.count(mark) == 1 for mark in gpu_tables.MARKS)
    assert gpu_session.PAGE.samefile(root / "docs" / "gpu.md")
