"""The figures of `tools.gpu_session` as Markdown, and into docs/gpu.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plot

from .errors import ToolError

MARKS = "<!-- figures of tools.gpu_session -->", "<!-- end of figures -->"


def rows_to_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def overview(steps: list[dict[str, Any]]) -> str:
    """A line for each step; of tests what pytest says last."""
    rows = []
    for step in steps:
        counts = next((line for line in reversed(step["last"]) if re.search(r"\d+ (passed|failed)", line)), "")
        rows.append((step["name"], step["verdict"], f"{step['seconds']:.0f} ({step['expected']})", counts.strip("= ")))
    return rows_to_table(("step", "verdict", "seconds (expected)", "tests"), rows)


def steps_table(figures: list[dict[str, Any]]) -> str:
    """Of sampling.py and kontext.py; the first case of a group is 1."""
    groups = list(dict.fromkeys(figure["group"] for figure in figures))
    names = list(dict.fromkeys(figure["name"] for figure in figures))
    found = {(figure["group"], figure["name"]): figure["ms"] for figure in figures if "ms" in figure}
    first = {group: next(figure["ms"] for figure in figures if figure["group"] == group) for group in groups}
    rows = []
    for name in names:
        cells = [found.get((group, name)) for group in groups]
        pairs = zip(cells, groups, strict=True)
        rows.append((name, *("-" if ms is None else f"{ms:.0f} ({ms / first[group]:.2f})" for ms, group in pairs)))
    return rows_to_table(("ms a step (ratio)", *groups), rows)


def kept_table(figures: dict[str, Any]) -> str:
    rows = [
        (row["references"], row["steps"], row["case"], f"{row['s']:.2f}", f"{row['of core']:.2f}", f"{row['GiB']:.2f}")
        for row in figures["rows"]
    ]
    return rows_to_table(("references", "steps", "case", "s", "of core", "GiB beyond the model"), rows)


def encode_table(figures: dict[str, Any]) -> str:
    counts = list(figures["ms"])
    names = list(dict.fromkeys(name for times in figures["ms"].values() for name in times))
    rows = [(name, *(f"{figures['ms'][count].get(name, float('nan')):.1f}" for count in counts)) for name in names]
    return rows_to_table((f"ms, memory {figures['memory']}", *(f"pictures: {count}" for count in counts)), rows)


def attention_table(figures: dict[str, Any]) -> str:
    rows = [
        (row["groups"], row["keys"], row["kernel"], row["ms"]["merged"], row["ms"].get("augmented", "-"))
        for row in figures["rows"]
    ]
    return rows_to_table(("groups", "keys", "kernel", "merged, ms", "augmented heads, ms"), rows)


def foreign_table(figures: list[dict[str, Any]]) -> str:
    rows = [
        (case["kernel"], case["references"], case["kind"], row["name"], f"{row['ms']:.2f}", f"{row['error']:.2g}")
        for case in figures
        for row in case["rows"]
        if "ms" in row
    ]
    return rows_to_table(("kernel", "references", "kind", "form", "ms", "relative error"), rows)


def options_table(figures: list[dict[str, Any]]) -> str:
    rows = [
        (f"`{row['options']}`" if row["options"] else "none", row["verdict"], row["reserved_mib"], row["backend"])
        for row in figures
    ]
    return rows_to_table(("options", "verdict", "MiB after", "attention of the weighted steps"), rows)


TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "options": ("ComfyUI's options", options_table),
    "sampling": ("One step of FLUX.1-dev", steps_table),
    "kept": ("Whole pictures with kept references", kept_table),
    "kontext": ("One step with Kontext's pictures", steps_table),
    "encode-static": ("Encoding, static memory", encode_table),
    "encode-dynamic": ("Encoding, dynamic memory", encode_table),
    "encode-gpu-only": ("Encoding, --gpu-only", encode_table),
    "foreign": ("Kernels without a log-sum-exp", foreign_table),
    "attention": ("Groups in one attention call", attention_table),
}


def page(session: dict[str, Any]) -> str:
    """All tables of a session."""
    parts = [f"One run of `python -m tools.gpu_session` on one {session['machine']}:", overview(session["steps"])]
    for step in session["steps"]:
        if step["name"] in TABLES and step["figures"]:
            title, draw = TABLES[step["name"]]
            parts += [f"### {title}", draw(step["figures"])]
    return "\n\n".join(parts)


def fill(folder: Path, path: Path) -> None:
    """Put the tables of folder/session.json between the marks of a page, and the plots beside it.

    Raises:
        ToolError: there is no such file, or the page has no marks.
    """
    if not (folder / "session.json").exists():
        raise ToolError(
            f"There is no session.json in {folder}; `python -m tools.gpu_session --output FOLDER` makes it."
        )
    text = path.read_text("utf-8")
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise ToolError(f"{path} lacks the lines {MARKS[0]} and {MARKS[1]}.")
    session = json.loads((folder / "session.json").read_text("utf-8"))
    path.write_text(f"{before}{MARKS[0]}\n\n{page(session)}\n\n{MARKS[1]}{after}", "utf-8")
    figures = {step["name"]: step["figures"] for step in session["steps"] if step["figures"]}
    if "kept" in figures:
        plot.draw_kept(figures["kept"]["rows"], path.parent / "kept_cost.png", session["machine"])
    if "sampling" in figures:
        plot.draw_growth(figures["sampling"], path.parent / "step_cost.png", session["machine"])
