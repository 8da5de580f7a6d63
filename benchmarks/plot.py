"""How cost grows with the number of references, drawn from the figures of sampling.py or kept.py.

python benchmarks/plot.py FIGURES.json PICTURE.png
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

LINES = {
    "core, plain Redux": ("0.6", "ComfyUI, no weight"),
    "ours, equal strength": ("#2a9d8f", "equal strengths"),
    "ours, strength": ("#1d5c96", "unequal strengths"),
    "ours, strength and region": ("#8e44ad", "unequal strengths and regions"),
    "ours, strength, flash forced": ("#d98324", "unequal strengths, flash"),
}


KEPT = ("core, plain", "exact", "close", "fast")


def _load_pyplot() -> Any:
    """None, said on stderr, where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed: no plot", file=sys.stderr)
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_kept(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """References along the axis, the time of a picture of 20 steps up; rows of kept.py."""
    pyplot = _load_pyplot()
    if pyplot is None:
        return
    figure, axis = pyplot.subplots(figsize=(6, 4))
    for name in KEPT:
        line = [(row["references"], row["s"]) for row in rows if row["case"] == name and row["steps"] == 20]
        axis.plot(*zip(*line, strict=True), marker="o", label=name)
    axis.set(xlabel="references", ylabel="seconds for 20 steps at 1 MP", title=title, ylim=(0, None))
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def draw_growth(figures: list[dict[str, Any]], path: Path, title: str) -> None:
    """One panel for each size; references along the axis, the time of a step up."""
    pyplot = _load_pyplot()
    if pyplot is None:
        return
    sizes = list(dict.fromkeys(figure["group"].split(",")[0] for figure in figures))
    canvas, axes = pyplot.subplots(1, len(sizes), figsize=(4.6 * len(sizes), 3.8), sharey=True, squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        for name, (colour, label) in LINES.items():
            found = [figure for figure in figures if figure["name"] == name and figure["group"].startswith(size)]
            counts = [int(figure["group"].split(", ")[1].split()[0]) for figure in found if "ms" in figure]
            axis.plot(counts, [figure["ms"] for figure in found if "ms" in figure], "o-", color=colour, label=label)
        axis.set(title=size, xlabel="references of 729 tokens")
        axis.grid(alpha=0.3)
    axes[0][0].set(ylabel="ms a step", ylim=(0, None))
    axes[0][-1].legend(fontsize=8)
    canvas.suptitle(f"One step of FLUX.1-dev, {title}")
    canvas.tight_layout()
    canvas.savefig(path, dpi=110)


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    if isinstance(found, dict):
        draw_kept(found["rows"], Path(sys.argv[2]), found["device"])
    else:
        draw_growth(found, Path(sys.argv[2]), "measured by sampling.py")
