"""What `make` installs is pinned, by files that any index can serve; and every test belongs to a session."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import bootstrap

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("make", "host", "test", "oldest")
PIN = re.compile(r"[a-z0-9][a-z0-9-]*==[A-Za-z0-9.+!]+( ; [\w.<>=!'() *]+)?")


def lines(name: str) -> list[str]:
    text = (ROOT / bootstrap.LOCKS / f"{name}.txt").read_text("utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """Version by name, as far as it is for this Python."""
    found = [Requirement(line) for line in lines(name)]
    return {one.name: str(one.specifier)[2:] for one in found if one.marker is None or one.marker.evaluate()}


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_is_names_and_versions(name: str) -> None:
    """No address of an index, no path, no option: only what every index knows."""
    assert [line for line in lines(name) if not PIN.fullmatch(line)] == []
    assert len(lines(name)) > 10
    assert "//" not in (ROOT / bootstrap.LOCKS / f"{name}.txt").read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_has_what_pyproject_asks_for(name: str) -> None:
    tomllib = pytest.importorskip("tomllib")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    locked = pins(name)
    asked = [name]
    for group in asked:
        asked += [entry["include-group"] for entry in groups[group] if isinstance(entry, dict)]
    for requirement in (Requirement(entry) for group in asked for entry in groups[group] if isinstance(entry, str)):
        if requirement.marker is None or requirement.marker.evaluate():
            package = canonicalize_name(requirement.name)
            assert package in locked, f"{requirement} is not in tools/locks/{name}.txt: make lock ARGS=--no-upgrade"
            assert requirement.specifier.contains(locked[package], prereleases=True)


def test_the_locks_agree() -> None:
    """One environment goes from lock to lock, so the same package has the same version in all of them."""
    test = pins("test")
    assert pins("host").items() <= test.items()
    assert pins("make").items() <= test.items()
    assert test["torch"] == "2.11.0" and pins("oldest")["torch"] in ("2.5.0", "2.6.0", "2.9.0")


@pytest.fixture(scope="module")
def sessions() -> dict[str, set[str]]:
    """Names of sessions by tag."""
    command = [sys.executable, "-m", "nox", "--list", "--json", "--tags", "test", "test-all", "test-gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, set[str]] = {}
    for one in json.loads(done.stdout):
        for tag in one["tags"]:
            found.setdefault(tag, set()).add(one["session"])
    return found


def test_every_tier_is_tested(sessions: dict[str, set[str]]) -> None:
    tiers = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    for tag in ("test", "test-all"):
        assert tiers <= {name.split("-")[0] for name in sessions[tag]}
        assert sessions["lint"] < sessions[tag]
        assert len([name for name in sessions[tag] if "-oldest" in name]) == 2
    assert {"host-0.30.0", "server-0.18.0"} < sessions["test-all"]
    assert {"library", "host", "gpu"} < sessions["test-gpu"]


def test_the_makefile_names_the_tiers(sessions: dict[str, set[str]]) -> None:
    """And the files that are chosen for the oldest torch exist."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (tiers,) = re.findall(r"^TIERS = (.+)$", makefile, re.MULTILINE)
    assert set(tiers.split()) == sessions["test"] - sessions["lint"]
    chosen = re.findall(r'"(library|host)": \((.+)\),', (ROOT / "noxfile.py").read_text("utf-8"))
    files = [
        ROOT / "tests" / tier / f"test_{name}.py" for tier, text in chosen for name in re.findall(r'"(\w+)"', text)
    ]
    assert len(files) > 10 and all(path.exists() for path in files)
