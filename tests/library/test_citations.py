"""The table of known defects cites tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
TABLE = TESTS / "host" / "test_known_defects.py"


def test_every_test_that_the_table_cites_exists() -> None:
    module = ast.parse(TABLE.read_text("utf-8"))
    known = {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
    known |= {path.stem for path in TESTS.glob("*/test_*.py")}
    rows = [line.split("|")[3] for line in (ast.get_docstring(module) or "").splitlines() if line.startswith("| ")][1:]
    cited = {name for row in rows for name in re.findall(r"\btest_\w+", row)}
    assert len(rows) > 25 and all("test_" in row for row in rows)
    assert cited - known == set()
