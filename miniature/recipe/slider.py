"""How evenly strength moves from the picture without a reference to plain Redux: weight, its cube, and share.

    python -m miniature.recipe.slider .mini/emoji.npz MODELS CKPT/judge.pt OUT --device cuda

writes OUT/slider.json, OUT/slider.png and OUT/slider.jpg. Each case has a prompt, one or two references
held out from the training, and a seed of its own. At each strength the progress is d0 / (d0 + d1), d0 being the
distance from the picture of the text alone and d1 that from the picture at strength 1: in pixels (means over 8 x 8, so
16 x 16) and in the judge's features. Evenness is judged by the largest departure of the mean progress from the
strength, and by the largest standard deviation over cases. `--fit` further cases, of other seeds, give a fixed curve
that makes their mean progress even; it is applied to the judged ones.

Shapes: C cases, S strengths, V variants of a case, B = C x V, L tokens, W context width, F features.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from redux.attention import prepare_groups, weighted_attention
from redux.attention.groups import Group

from .evaluate import LEFT, RIGHT, Evaluation, other
from .sampling import SIDE, pool_tokens
from .vocabulary import COLOURS, STYLES, phrase

STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
IMAGE = (SIDE // 2) ** 2

Amounts = tuple[Tensor, Tensor]  # log weight and share


def _weight(amount: Tensor) -> Amounts:
    return amount.log(), torch.ones_like(amount)


# What strengths [S, 1] and a region [L] are to attention. ComfyUI's multiply scales the tokens instead.
MULTIPLY = "tokens x s (core's multiply)"
WAYS: dict[str, Callable[[Tensor, Tensor], Amounts]] = {
    "weight (core's attn_bias)": lambda strength, region: _weight(strength * region),
    "weight s^3": lambda strength, region: _weight(strength**3 * region),
    "share": lambda strength, region: (torch.zeros_like(strength * region), strength * region),
    MULTIPLY: lambda strength, region: _weight(torch.ones_like(strength) * region),
}


@dataclass(frozen=True)
class Kind:
    """What the cases of one batch have in common."""

    references: int
    tokens: int
    region: bool
    prompt: str

    @property
    def levels(self) -> dict[str, str]:
        return {
            "references": str(self.references),
            "tokens": str(self.tokens),
            "region": "half" if self.region else "whole",
            "prompt": self.prompt,
        }


KINDS = [Kind(*values) for values in product((1, 2), (64, 16, 4), (False, True), ("short", "long"))]
# Only for the band: a prompt that names no object, as people write it who want the reference's.
SCENE = Kind(1, 64, False, "scene")


@dataclass
class Cases:
    """Measured cases of one kind: progress [C, S] by way and measure, and what the judge names [C, V] in each."""

    kind: Kind
    progress: dict[str, dict[str, Tensor]]
    kept: dict[str, Tensor]  # prompt and reference both recognised, [C, S + 2]
    pictures_CV: Tensor
    apart: Tensor  # pixel distance of the two ends


class Study(Evaluation):
    def name(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the judge sees them, among all objects: prompts name any that was trained on."""
        objects, styles, colours = self.judge(pictures.to(self.device))
        return objects.argmax(1), styles.argmax(1), colours.argmax(1)

    def measure(self, kind: Kind, count: int, seed: int) -> Cases:
        torch.manual_seed(seed)
        objects = self.emoji.held_out[torch.randint(len(self.emoji.held_out), (2, count))]
        scenes, pictures, tokens = zip(*(self.references(row) for row in objects[: kind.references]), strict=True)
        prompts, wanted = self.prompts(kind, scenes[0], objects[0])
        side = math.isqrt(kind.tokens)
        pooled = [pool_tokens(token, side) if side < 8 else token for token in tokens]
        made = self.sample_all(kind, prompts, pooled, seed)
        named = [answer.unflatten(0, made.shape[:2]) for answer in self.name(made.flatten(0, 1))]
        both = both_kept(kind, named, wanted, objects[0], scenes[0])
        return self.evaluate(kind, made, both)

    def prompts(self, kind: Kind, scenes: Any, objects: Tensor) -> tuple[list[str], tuple[Tensor, Tensor, Tensor]]:
        """Short ones name another object, long ones also a style and a background that the reference lacks.

        Those of a scene name the style and the background alone.
        """
        count = len(objects)
        named = self.emoji.train[torch.randint(len(self.emoji.train), (count,))].to(self.device)
        style, colour = other(scenes.styles[:, 0], len(STYLES)), other(scenes.colours, len(COLOURS))
        texts = [f"large {phrase(self.emoji.names[index])}" for index in named.tolist()]
        more = [
            f"{STYLES[s]} style, {list(COLOURS)[c]} background"
            for s, c in zip(style.tolist(), colour.tolist(), strict=True)
        ]
        if kind.prompt == "long":
            texts = [f"{text}, {words}" for text, words in zip(texts, more, strict=True)]
        elif kind == SCENE:
            texts = more
        return texts, (named, style, colour)

    def sample_all(self, kind: Kind, prompts: list[str], tokens: list[Tensor], seed: int) -> Tensor:
        """[C, V, 3, 128, 128]: strength 0, then each way at each strength, then strength 1."""
        count, variants = len(prompts), len(WAYS) * len(STRENGTHS) + 2
        words = torch.stack([self.mini.prompt(text) for text in prompts])
        noise = torch.randn(count, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).to(self.device)
        factors = torch.ones(variants)
        first = 1 + list(WAYS).index(MULTIPLY) * len(STRENGTHS)
        factors[first : first + len(STRENGTHS)] = torch.tensor(STRENGTHS)
        tokens = [
            token.repeat_interleave(variants, 0) * factors.to(token).repeat(count)[:, None, None] for token in tokens
        ]
        context = torch.cat((*tokens, words.repeat_interleave(variants, 0)), 1)
        empty = self.mini.prompt("").expand(len(context), -1, -1)
        bias = attention(kind, words.shape[1], count, self.device)
        noise = noise.repeat_interleave(variants, 0)
        latents = self.mini.integrate(noise, (context, bias), (empty, None), self.steps, self.cfg)
        return self.mini.decode(latents).unflatten(0, (count, variants))

    def evaluate(self, kind: Kind, made: Tensor, both: Tensor) -> Cases:
        features = normalize(self.judge.embed(made.flatten(0, 1)), dim=1).unflatten(0, made.shape[:2])
        points = {
            "pixels": avg_pool2d(made.flatten(0, 1), 8).flatten(1).unflatten(0, made.shape[:2]),
            "judge": features,
        }
        size = len(STRENGTHS)
        progress: dict[str, dict[str, Tensor]] = {}
        kept = {}
        for number, way in enumerate(WAYS):
            columns = slice(1 + number * size, 1 + (number + 1) * size)
            progress[way] = {name: advance(point, columns).cpu() for name, point in points.items()}
            kept[way] = torch.cat((both[:, :1], both[:, columns], both[:, -1:]), 1).cpu()
        apart = (points["pixels"][:, 0] - points["pixels"][:, -1]).square().mean(1).sqrt()
        return Cases(kind, progress, kept, made.cpu(), apart.cpu())


def advance(points_CVF: Tensor, columns: slice) -> Tensor:
    """d0 / (d0 + d1) [C, S]."""
    middle = points_CVF[:, columns]
    from_text, from_whole = ((middle - points_CVF[:, [end]]).norm(dim=-1) for end in (0, -1))
    return from_text / (from_text + from_whole).clamp(min=1e-9)


def attention(
    kind: Kind,
    words: int,
    count: int,
    device: str,
    ways: dict[str, Callable[[Tensor, Tensor], Amounts]] = WAYS,
    chosen: tuple[float, ...] = STRENGTHS,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention of all variants at once, each with an amount of its own for each query."""
    references = kind.references * kind.tokens
    total = references + words + IMAGE
    strengths = torch.tensor(chosen)[:, None]
    groups: list[Group] = []
    for index in range(kind.references):
        region = torch.ones(references + words + IMAGE)
        if kind.region:
            half = (LEFT, RIGHT)[index]
            region[references + words :], region[references : references + words] = half.flatten(), half.mean()
        nothing = (torch.arange(total) < references).float()  # queries of the references are left alone
        parts = [_weight(nothing[None])]  # 0 and 1 are the same in all ways
        for way in ways.values():
            log_SL, share_SL = way(strengths, region)
            log_SL[:, :references], share_SL[:, :references] = 0, 1
            parts.append((log_SL, share_SL))
        parts.append(_weight(region[None]))
        log_VL, share_VL = (torch.cat(column).repeat(count, 1) for column in zip(*parts, strict=True))
        bias = math.log(64 / kind.tokens)
        groups.append((index * kind.tokens, (index + 1) * kind.tokens, log_VL + bias, share_VL))
    plan = prepare_groups(groups, total, device)
    return lambda q, k, v: weighted_attention(q, k, v, plan)


def both_kept(kind: Kind, named: list[Tensor], wanted: tuple[Tensor, ...], objects: Tensor, scenes: Any) -> Tensor:
    """Whether the judge sees the prompt and the reference in a picture, bool [C, V].

    Short: the prompt's object on the reference's background. Others: the reference's object in the prompt's style on
    the prompt's background.
    """
    found, styles, colours = named
    if kind.prompt == "short":
        return (found == wanted[0][:, None]) & (colours == scenes.colours[:, None])
    return (found == objects[:, None]) & (styles == wanted[1][:, None]) & (colours == wanted[2][:, None])


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
    from .slider_figures import draw  # which knows this module

    found = {"judge on fresh scenes": study.judge_accuracy, **figures(judged, fitted, scenes)}
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    (arguments.output / "slider.json").write_text(text + "\n", "ascii")
    draw(found, judged, arguments.output)
    print(f"{text}\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
