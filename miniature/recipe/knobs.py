"""Prompt against reference: the plane of the two best knobs, and references in the negative.

    python -m miniature.recipe.knobs .mini/emoji.npz MODELS CKPT/judge.pt OUT --device cuda

writes OUT/knobs.json, OUT/knobs.png and OUT/knobs.jpg. The object is to come from the reference, style and background
from the text, which names others. Judged are the pairs of ends (of the reference's time) and guidances, and single
strengths, which is what there was; the best of both again on fresh cases; and what was tried beside them (TRIED): the
reference in the negative too (referred), so that guidance pulls towards the words alone, and heads left out. Then
negative references: the prompt names an object, and the negative has a picture of that object in the style and on the
background that the text alone gives; the share of pictures that still take on either, against the empty negative.

Shapes: C cases.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from redux.schedule import BlockWeights, Schedule

from .evaluate import Evaluation, other, portraits
from .sheet import tile
from .steering import Steered, acting, paint
from .vocabulary import COLOURS, STYLES, phrase

ENDS = (0.4, 0.5, 0.7, 1.0)
GUIDANCES = (2.0, 3.0, 4.0)
STRENGTHS = (0.7, 0.85, 1.0)
NO_HEAD_0 = BlockWeights.parse("double:.h0=0, single:.h0=0")
TRIED: dict[str, dict[str, Any]] = {
    "referred, guidance 3": {"cfg": 3.0, "referred": True},
    "no head 0": {"blocks": NO_HEAD_0},
    "no head 0, guidance 3": {"cfg": 3.0, "blocks": NO_HEAD_0},
}


class Study(Evaluation):
    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        self.count = arguments.count
        self.arrange(arguments.seed)

    def arrange(self, seed: int) -> None:
        """Draw the cases: held-out objects in scenes, prompts that name another style and background, noises."""
        torch.manual_seed(seed)
        self.seeds = [seed + index for index in range(self.count)]
        order = torch.randperm(len(self.emoji.held_out))[: self.count]
        self.objects = self.emoji.held_out[order]
        self.scenes, self.pictures, self.tokens = self.references(self.objects)
        self.style, self.colour = other(self.scenes.styles[:, 0], len(STYLES)), other(self.scenes.colours, len(COLOURS))
        pairs = zip(self.style.tolist(), self.colour.tolist(), strict=True)
        self.prompts = [f"{STYLES[style]} style, {list(COLOURS)[colour]} background" for style, colour in pairs]

    def made(self, cfg: float = 2.0, referred: bool = False, **options: Any) -> Tensor:
        steered = Steered(self.tokens, acting(**options))
        negative = steered if referred else None
        return paint(self.mini, self.prompts, steered, negative, seeds=self.seeds, steps=self.steps, cfg=cfg)

    def figures(self, made: Tensor) -> dict[str, float]:
        found, styles, colours = self.name(made)
        right = found == self.objects, styles == self.style, colours == self.colour
        names = ("object", "style", "background")
        values = {name: mean(each) for name, each in zip(names, right, strict=True)}
        return {**values, "all three": mean(right[0] & right[1] & right[2])}

    def negatives(self) -> dict[str, dict[str, float]]:
        """How often a picture takes on the style or the background of a reference, by what the negative has."""
        objects = self.sets["trained"][torch.randperm(len(self.sets["trained"]))[: len(self.objects)]]
        prompts = [f"large {phrase(self.emoji.names[index])}" for index in objects.tolist()]
        plain = paint(self.mini, prompts, None, seeds=self.seeds, steps=self.steps, cfg=2.0)
        _, styles, colours = self.name(plain)  # what the text alone gives is what the negative shows
        scenes = portraits(objects, plain=True)
        scenes.styles[:, 0], scenes.colours = styles, colours
        steered = Steered(self.mini.refer(self.emoji.draw(scenes)), acting())
        found = {}
        for name, negative in (("empty negative", None), ("reference in the negative", steered)):
            made = paint(self.mini, prompts, None, negative, seeds=self.seeds, steps=self.steps, cfg=2.0)
            seen = self.name(made)
            found[name] = {
                "prompt's object": mean(seen[0] == objects),
                "the negative's style": mean(seen[1] == styles),
                "the negative's background": mean(seen[2] == colours),
            }
        return found


def mean(right: Tensor) -> float:
    return round(float(right.float().mean()), 4)


def judge(study: Study) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Figures by group and setting, and the pictures of each."""
    settings: dict[str, dict[str, dict[str, Any]]] = {
        # Guidance 2 against the empty prompt alone, as the evaluation has it.
        "single strength": {f"{strength:g}": {"strength": strength} for strength in STRENGTHS},
        "plane": {
            f"{end:g}, {cfg:g}": {"cfg": cfg, "schedule": Schedule(0.0, end)} for end in ENDS for cfg in GUIDANCES
        },
        "tried": TRIED,
    }
    found: dict[str, Any] = {group: {} for group in settings}
    pictures = {}
    for group, entries in settings.items():
        for name, options in entries.items():
            made = study.made(**options)
            pictures[f"{group}: {name}"], found[group][name] = made, study.figures(made)
            print(f"{group}: {name}: {found[group][name]}", flush=True)
    return found, pictures


def confirm(study: Study, found: dict[str, Any], seed: int) -> dict[str, dict[str, float]]:
    """The best single strength and the best pair once more, on cases that they were not chosen by."""
    study.arrange(seed)
    strength = float(best_of(found["single strength"]))
    end, cfg = (float(value) for value in best_of(found["plane"]).split(", "))
    ways = {
        f"strength {strength:g}": {"strength": strength},
        f"end {end:g}, guidance {cfg:g}": {"cfg": cfg, "schedule": Schedule(0.0, end)},
    }
    return {name: study.figures(study.made(**options)) for name, options in ways.items()}


def draw(found: dict[str, Any], path: Path, cell: int = 64, margin: int = 90) -> None:
    """A panel for each figure: the reference's ends across, guidances upwards; the darker, the more."""
    names = ("object", "style", "background", "all three")
    width, height = cell * len(ENDS) + margin, cell * len(GUIDANCES) + margin
    canvas = Image.new("RGB", (width * len(names), height), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    for number, name in enumerate(names):
        left, top = number * width + margin - 20, 34
        best = max(values[name] for values in found["single strength"].values())
        pen.text((left, 8), f"{name} (one strength: {best:.0%})", "black", font)
        for row, cfg in enumerate(reversed(GUIDANCES)):
            pen.text((left - 8, top + (row + 0.5) * cell), f"cfg {cfg:g}", "black", font, "rm")
            for column, end in enumerate(ENDS):
                value = found["plane"][f"{end:g}, {cfg:g}"][name]
                x, y = left + column * cell, top + row * cell
                shade = round(255 - 200 * value)
                pen.rectangle((x, y, x + cell - 2, y + cell - 2), (shade, round(255 - 110 * value), 255))
                pen.text((x + cell / 2, y + cell / 2), f"{value:.0%}", "black", font, "mm")
        for column, end in enumerate(ENDS):
            pen.text((left + (column + 0.5) * cell, top + len(GUIDANCES) * cell + 14), f"{end:g}", "black", font, "mm")
        pen.text((left, top + len(GUIDANCES) * cell + 28), "end_percent", "black", font)
    canvas.save(path)


def best_of(found: dict[str, dict[str, float]]) -> str:
    return max(found, key=lambda key: found[key]["all three"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "judge", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=2028)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    arguments.cfg = 2.0
    start = time.monotonic()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        study = Study(arguments)
        negatives = study.negatives()
        print(negatives, flush=True)
        found, pictures = judge(study)
        found = {"cases": arguments.count, **found, "negative references": negatives}
        drawn = study.pictures[:12].cpu()
        found["fresh cases"] = confirm(study, found, arguments.seed + 1000)
    chosen = ["single strength: 1", *(f"{group}: {best_of(found[group])}" for group in ("single strength", "plane"))]
    rows = [("reference", drawn), *((name, pictures[name][:12]) for name in dict.fromkeys(chosen))]
    text = json.dumps(found, indent=1)
    (arguments.output / "knobs.json").write_text(text + "\n", "ascii")
    draw(found, arguments.output / "knobs.png")
    tile(rows).save(arguments.output / "knobs.jpg", quality=85)
    print(f"{text}\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
