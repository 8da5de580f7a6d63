"""Where the prompt begins to win is one measured number: README, help, tooltip, template and demo say it alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools.template_notes import ABOUT
from tools.tour import BAND

ROOT = Path(__file__).resolve().parents[2]
HELP = ROOT / "nodes" / "web" / "docs"


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return json.loads((ROOT / "miniature" / "recipe" / "band.json").read_text("ascii"))  # type: ignore[no-any-return]


def rounded(measured: dict[str, Any], response: str) -> str:
    return f"{measured[response]['prompt wins below']:.1f}"


@pytest.mark.parametrize("path", ["README.md", "nodes/web/docs/ReduxApply.md", "miniature/README.md"])
def test_pages_say_what_was_measured(measured: dict[str, Any], path: str) -> None:
    text = re.sub(r"[\s*]+", " ", (ROOT / path).read_text("utf-8"))
    assert f"begins to win below {rounded(measured, 'even')}" in text
    assert f"below {rounded(measured, 'weight')}" in text


@pytest.mark.parametrize("path", ["ReduxApply/zh.md", "ReduxApply/ja.md"])
def test_translations_say_it_too(measured: dict[str, Any], path: str) -> None:
    text = (HELP / path).read_text("utf-8")
    assert rounded(measured, "even") in "".join(text.splitlines()[2:5]) and rounded(measured, "weight") in text


def test_tooltips_say_it_in_every_language(measured: dict[str, Any]) -> None:
    assert f"begins to win below {rounded(measured, 'even')}" in (ROOT / "nodes" / "apply.py").read_text("utf-8")
    for path in (ROOT / "locales").glob("*/nodeDefs.json"):
        tooltip = json.loads(path.read_text("utf-8"))["ReduxApply"]["inputs"]["strength"]["tooltip"]
        assert rounded(measured, "even") in tooltip, path.parent.name


def test_the_first_template_says_it(measured: dict[str, Any]) -> None:
    assert f"begins to win below {rounded(measured, 'even')}" in ABOUT["variation"].replace("\n", " ")


def test_the_demo_steps_through_the_band(measured: dict[str, Any]) -> None:
    low, high = measured["even"]["band"]
    assert BAND[0] == 0 and BAND[-1] == 1
    assert sum(low <= strength <= high for strength in BAND) >= 3
