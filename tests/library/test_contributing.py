"""The contributor's page names files that are there, and tiers that `make` knows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_what_it_names_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = set(re.findall(r"`([\w/]+\.(?:py|md))`", text))
    assert len(paths) > 15
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (tiers,) = re.findall(r"^TIERS = (.+)$", makefile, re.MULTILINE)
    assert set(re.findall(r"make test-(\w+)", text)) <= {*tiers.split(), "all", "gpu"}
    copied = re.findall(r"`(\w+)` of the same file", text)
    sources = "".join((ROOT / path).read_text("utf-8") for path in paths if path.endswith(".py"))
    assert copied and all(re.search(rf"\b{name}\b", sources) for name in copied)


def test_the_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    paths = set(re.findall(r"`([\w/]+\.py)`", text))
    rooms = [ROOT, ROOT / "nodes" / "host", ROOT / "redux" / "attention"]
    assert len(paths) > 20
    assert {path for path in paths if not any((room / path).exists() for room in rooms)} == set()
