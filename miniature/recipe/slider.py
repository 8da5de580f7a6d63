"""How evenly strength moves from the picture without a reference to plain Redux: weight, its cube, and share.

    python -m miniature.recipe.slider .mini/emoji.npz MODELS CKPT/judge.pt OUT --device cuda

writes OUT/slider.json, OUT/slider.png and OUT/slider.jpg. Each case has a prompt, one or two references
held out from the training, and a seed of its own. At each strength the progress is d0 / (d0 + d1), d0 being the
distance from the picture of the text alone and d1 that from the picture at strength 1: in pixels (means over 8 x 8, so
16 x 16) and in the judge's features. Evenness is judged by the largest departure of the mean progress from the
strength, and by the largest standard deviation over cases. `--fit` further cases, of other seeds, give a fixed curve
that makes their mean progress even; it is applied to the judged ones.

Shapes: C cases, S strengths.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .slider_cases import KINDS, SCENE, STRENGTHS, WAYS, Cases, Study
from .slider_figures import draw


def summary(progress_CS: Tensor) -> dict[str, Any]:
    mean_S = progress_CS.mean(0)
    departure = (mean_S - torch.tensor(STRENGTHS)).abs().max()
    return {
        "largest departure": round(float(departure), 4),
        "largest spread": round(float(progress_CS.std(0).max()), 4),
        "mean spread": round(float(progress_CS.std(0).mean()), 4),
        "progress": [round(value, 4) for value in mean_S.tolist()],
    }


def band(kept_CS: Tensor) -> float:
    """The part of the slider from 0 to 1 on which both are kept, a mean over cases."""
    grid = torch.tensor([0.0, *STRENGTHS, 1.0])
    return round(float(torch.trapezoid(kept_CS.float().mean(0), grid)), 4)


def refit(progress_CS: Tensor, fitted_CS: Tensor) -> Tensor:
    """Progress of cases when the slider goes through the inverse of the mean of other cases."""
    grid = np.array([0.0, *STRENGTHS, 1.0])
    mean = np.maximum.accumulate([0.0, *fitted_CS.mean(0).tolist(), 1.0])
    moved = np.interp(STRENGTHS, mean, grid)
    rows = [np.interp(moved, grid, [0.0, *row, 1.0]) for row in progress_CS.tolist()]
    return torch.tensor(np.array(rows), dtype=torch.float32)


def figures(judged: list[Cases], fitted: list[Cases], scenes: Cases | None = None) -> dict[str, Any]:
    out: dict[str, Any] = {"strengths": STRENGTHS, "cases": sum(len(cases.apart) for cases in judged), "ways": {}}
    for way in WAYS:
        entry: dict[str, Any] = {}
        for measure in ("pixels", "judge"):
            progress = torch.cat([cases.progress[way][measure] for cases in judged])
            entry[measure] = summary(progress)
            if fitted:
                others = torch.cat([cases.progress[way][measure] for cases in fitted])
                entry[f"{measure}, refitted on other cases"] = summary(refit(progress, others))
        entry["by kind, pixels"] = by_kind(judged, way)
        for prompt in ("short", "long"):
            # The judge names one object; halves and pairs are not for it.
            clear = [x for x in judged if x.kind.references == 1 and not x.kind.region and x.kind.tokens == 64]
            chosen = [cases.kept[way] for cases in clear if cases.kind.prompt == prompt]
            entry[f"band of both kept, {prompt} prompt"] = band(torch.cat(chosen)) if chosen else None
        if scenes:
            entry["band of both kept, scene prompt"] = band(scenes.kept[way])
            entry["both kept at each strength, scene prompt"] = scenes.kept[way].float().mean(0).tolist()
        out["ways"][way] = entry
    return out


def by_kind(judged: list[Cases], way: str) -> dict[str, float]:
    """The largest departure among the cases that have something in common."""
    parts: dict[str, list[Tensor]] = {}
    for cases in judged:
        for name, level in cases.kind.levels.items():
            parts.setdefault(f"{name}: {level}", []).append(cases.progress[way]["pixels"])
    return {name: summary(torch.cat(rows))["largest departure"] for name, rows in sorted(parts.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "judge", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", type=int, default=216, help="in 24 kinds; the next multiple is taken")
    parser.add_argument("--fit", type=int, default=96, help="further cases, for the fixed curve; 0 for none")
    parser.add_argument("--scenes", type=int, default=36, help="cases for the band with a prompt that names no object")
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    arguments.cfg, arguments.steps, arguments.count = 2.0, 10, 100
    start = time.monotonic()
    with torch.no_grad():
        study = Study(arguments)

        def run(cases: int, seed: int) -> list[Cases]:
            each = -(-cases // len(KINDS))
            return [study.measure(kind, each, seed + number) for number, kind in enumerate(KINDS) if each]

        judged, fitted = run(arguments.cases, arguments.seed), run(arguments.fit, arguments.seed + 1000)
        scenes = study.measure(SCENE, arguments.scenes, arguments.seed + 2000)
    found = {"judge on fresh scenes": study.judge_accuracy, **figures(judged, fitted, scenes)}
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    (arguments.output / "slider.json").write_text(text + "\n", "ascii")
    draw(found, judged, arguments.output)
    print(f"{text}\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
