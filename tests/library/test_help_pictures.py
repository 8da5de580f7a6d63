"""Pictures of the help pages: each is made by a command, small, and shown on a page."""

from __future__ import annotations

import re
from pathlib import Path

from tools.help_pictures import PICTURES
from tools.page_pictures import SCENES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "nodes" / "web" / "docs"
STUDIES = {"ReduxApply-band", "ReduxApply-response"}  # of miniature.recipe.band and miniature.recipe.slider
README = {"nodes"}


def test_each_is_made_by_a_command_and_shown() -> None:
    files = {path.name for path in DOCS.iterdir() if path.suffix in (".png", ".jpg")}
    assert {Path(name).stem for name in files} == set(PICTURES) | set(SCENES) - README | STUDIES
    shown = {
        name for page in DOCS.glob("*.md") for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
    }
    assert shown == files


def test_they_are_small() -> None:
    assert max(path.stat().st_size for path in DOCS.iterdir() if path.suffix in (".png", ".jpg")) < 64 * 1024


def test_each_page_says_first_what_to_set() -> None:
    """A sentence or two, then the picture: all of it can be seen without scrolling."""
    for page in DOCS.glob("*.md"):
        text = page.read_text("utf-8")
        before = text.split("![", 1)[0]
        assert len(before) < 560, page.name
        assert re.search(r"\*\*|connect|choose|leave", before, re.IGNORECASE), page.name
