"""How close pictures with kept references come to exact ones: 204 cases with seeds of their own.

    python -m miniature.recipe.keeping .mini/emoji.npz MODELS CKPT/judge.pt OUT --device cuda

writes OUT/keeping.json and OUT/keeping.jpg (exact, close, fast, another seed). A case has one, two or three references
held out from the training, a strength of 0.3 or 1, a region for each reference or none, and a prompt that names a style
and a background. Distances are means over pixels and channels of values in 0..1.

Shapes: C cases, L tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redux.attention import prepare_groups, weighted_attention
from redux.keeping import KeptKeys, Quality, full_steps, position_of

from .evaluate import Evaluation, other, share
from .sampling import SIDE
from .sheet import tile
from .vocabulary import COLOURS, STYLES

IMAGE = (SIDE // 2) ** 2
TOKENS = 64
QUALITIES: tuple[Quality, ...] = ("exact", "close", "fast", "automatic")
RUNS = (("euler", 4), ("euler", 10), ("euler", 20), ("euler", 28), ("heun", 20), ("euler ancestral", 20), ("sde", 20))

Model = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Kind:
    """What the cases of one batch have in common."""

    references: int
    strength: float
    region: bool


KINDS = [Kind(*values) for values in product((1, 2, 3), (0.3, 1.0), (False, True))]


@dataclass
class Made:
    """Pictures [C, 3, 128, 128], what the judge sees in them, and how many of the calls were full."""

    pictures: Tensor
    right: dict[str, Tensor]
    full: float


class Study(Evaluation):
    def cases(self, kind: Kind, count: int, seed: int) -> Cases:
        torch.manual_seed(seed)
        objects = self.emoji.held_out[torch.randint(len(self.emoji.held_out), (kind.references, count))]
        scenes, _, tokens = zip(*(self.references(row) for row in objects), strict=True)
        style, colour = other(scenes[0].styles[:, 0], len(STYLES)), other(scenes[0].colours, len(COLOURS))
        texts = [f"{STYLES[s]} style, {list(COLOURS)[c]} background" for s, c in zip(style, colour, strict=True)]
        words = torch.stack([self.mini.prompt(text) for text in texts])
        return Cases(self, kind, torch.cat(tokens, 1), words, (objects, style, colour), seed)


@dataclass
class Cases:
    """The cases of one kind; the negative has no reference."""

    study: Study
    kind: Kind
    tokens: Tensor
    words: Tensor
    wanted: tuple[Tensor, Tensor, Tensor]
    seed: int

    def make(self, sampler: str, steps: int, quality: Quality, seed: int = 0) -> Made:
        generator = torch.Generator().manual_seed(self.seed + seed)
        noise = torch.randn(len(self.words), 16, SIDE, SIDE, generator=generator).to(self.tokens)
        calls = Calls(self, quality, steps)
        pictures = self.study.mini.decode(SAMPLERS[sampler](calls, noise, steps, generator))
        objects, styles, colours = self.study.name(pictures)
        right = {"object": (objects == self.wanted[0]).any(0), "style": styles == self.wanted[1]}
        right["background"] = colours == self.wanted[2]
        right = {name: values.cpu() for name, values in right.items()}
        return Made(pictures.cpu(), right, calls.full / calls.count)


class Calls:
    """The model with real CFG, its references kept or not: x and time to velocity."""

    def __init__(self, cases: Cases, quality: Quality, steps: int) -> None:
        self.cases, self.quality, self.steps = cases, quality, steps
        self.times = torch.linspace(1, 0, steps + 1).tolist()
        self.store = KeptKeys()
        self.full = self.count = 0
        self.plans = {kept: self._plan(kept) for kept in (False, True)}

    def _plan(self, kept: bool) -> Any:
        kind, text = self.cases.kind, self.cases.words.shape[1]
        asking = 0 if kept else kind.references * TOKENS
        groups = []
        for index in range(kind.references):
            weight = torch.full((text + IMAGE,), kind.strength)
            if kind.region:
                columns = torch.arange(8) * kind.references // 8 == (index if kind.references > 1 else 0)
                half = columns if kind.references > 1 else torch.arange(8) < 4
                weight[:text] *= half.float().mean()
                weight[text:] *= half.float().expand(8, 8).flatten()
            rows = torch.cat((torch.ones(asking), weight)).log()
            groups.append((index * TOKENS, (index + 1) * TOKENS, rows))
        return prepare_groups(groups, kind.references * TOKENS + text + IMAGE, self.cases.tokens.device)

    def __call__(self, x: Tensor, time_now: float) -> Tensor:
        mini, cfg = self.cases.study.mini, self.cases.study.cfg
        when = torch.full((len(x),), time_now, device=x.device)
        position = position_of(time_now, self.times)
        full = self.store.is_due(self.quality, position, time_now, self.steps)
        self.count, self.full = self.count + 1, self.full + full
        if full:
            self.store.begin(position)
        context = torch.cat((self.cases.tokens, self.cases.words), 1) if full else self.cases.words
        with_references = mini.flux(x, when, context, self._attention(full))
        if full:
            self.store.end(time_now)
        without = mini.flux(x, when, mini.prompt("").expand(len(x), -1, -1))
        return without + cfg * (with_references - without)

    def _attention(self, full: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        tokens, plan, blocks = self.cases.kind.references * TOKENS, self.plans[not full], iter(range(1000))

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            block = "block", next(blocks)
            if full:
                self.store.put(block, k[:, :, :tokens], v[:, :, :tokens])
                return weighted_attention(q, k, v, plan)
            return weighted_attention(q, k, v, plan, kept=self.store.get(block))

        return attend


def euler(model: Model, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    times = torch.linspace(1, 0, steps + 1).tolist()
    for now, then in zip(times[:-1], times[1:], strict=True):
        x = x + (then - now) * model(x, now)
    return x


def heun(model: Model, x: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    times = torch.linspace(1, 0, steps + 1).tolist()
    for now, then in zip(times[:-1], times[1:], strict=True):
        first = model(x, now)
        second = model(x + (then - now) * first, then) if then > 0 else first
        x = x + (then - now) * (first + second) / 2
    return x


def euler_ancestral(model: Model, x: Tensor, steps: int, generator: torch.Generator, fresh: float = 0.5) -> Tensor:
    """At each step a part of the noise that is left is drawn anew."""
    times = torch.linspace(1, 0, steps + 1).tolist()
    for now, then in zip(times[:-1], times[1:], strict=True):
        velocity = model(x, now)
        clean, noise = x - now * velocity, x + (1 - now) * velocity
        drawn = torch.randn(x.shape, generator=generator).to(x)
        x = (1 - then) * clean + then * (math.sqrt(1 - fresh**2) * noise + fresh * drawn)
    return x


# All of the noise drawn anew is what a stochastic differential equation does at its most.
SAMPLERS = {
    "euler": euler,
    "heun": heun,
    "euler ancestral": euler_ancestral,
    "sde": partial(euler_ancestral, fresh=1.0),
}


def distance(one: Made, two: Made) -> Tensor:
    return (one.pictures - two.pictures).abs().mean((1, 2, 3))


def measure(cases: list[Cases], sampler: str, steps: int) -> tuple[dict[str, Any], dict[str, list[Made]]]:
    made = {quality: [case.make(sampler, steps, quality) for case in cases] for quality in QUALITIES}
    made["another seed"] = [case.make(sampler, steps, "exact", seed=5000) for case in cases]
    other_seed = torch.cat([distance(a, b) for a, b in zip(made["another seed"], made["exact"], strict=True)])
    out: dict[str, Any] = {}
    for name, runs in made.items():
        apart = torch.cat([distance(a, b) for a, b in zip(runs, made["exact"], strict=True)])
        entry = {"full calls": round(sum(run.full for run in runs) / len(runs), 3)}
        entry |= {"from exact": round(float(apart.mean()), 4), "worst": round(float(apart.max()), 4)}
        entry["of another seed"] = round(float(apart.mean() / other_seed.mean()), 3)
        for what in ("object", "style", "background"):
            whole = [run.right[what] for run, case in zip(runs, cases, strict=True) if not case.kind.region]
            entry[what] = round(100 * share(torch.cat(whole)), 1)
        out[name] = entry
    return out, made


def rows_of(cases: list[Cases], made: dict[str, list[Made]]) -> list[tuple[str, Tensor]]:
    """For each kind its first case, and the worst of all, as exact, close, fast, another seed."""
    shown = ("exact", "close", "fast", "another seed")
    rows = [
        (
            f"{case.kind.references} ref., {case.kind.strength}{', regions' if case.kind.region else ''}",
            torch.stack([made[name][index].pictures[0] for name in shown]),
        )
        for index, case in enumerate(cases)
    ]
    apart = [distance(a, b) for a, b in zip(made["fast"], made["exact"], strict=True)]
    index = max(range(len(apart)), key=lambda number: float(apart[number].max()))
    worst = int(apart[index].argmax())
    return [*rows, ("the worst case", torch.stack([made[name][index].pictures[worst] for name in shown]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "judge", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", type=int, default=204, help="in 12 kinds; the next multiple is taken")
    parser.add_argument("--seed", type=int, default=4100)
    parser.add_argument("--runs", nargs="+", default=[" ".join(map(str, run)) for run in RUNS], metavar="SAMPLER STEPS")
    arguments = parser.parse_args()
    arguments.cfg, arguments.steps, arguments.count = 2.0, 10, 100
    start = time.monotonic()
    found: dict[str, Any] = {"full steps of 28": {name: full_steps(name, 28) for name in ("close", "fast")}}
    with torch.no_grad():
        study = Study(arguments)
        each = -(-arguments.cases // len(KINDS))
        cases = [study.cases(kind, each, arguments.seed + number) for number, kind in enumerate(KINDS)]
        found["cases"] = each * len(KINDS)
        arguments.output.mkdir(parents=True, exist_ok=True)
        for run in arguments.runs:
            sampler, _, steps = run.rpartition(" ")
            found[f"{sampler}, {steps} steps"], made = measure(cases, sampler, int(steps))
            if run == "euler 20":
                tile(rows_of(cases, made)).save(arguments.output / "keeping.jpg", quality=88)
            text = json.dumps(found, indent=1)
            (arguments.output / "keeping.json").write_text(text + "\n", "ascii")
    print(f"{text}\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
