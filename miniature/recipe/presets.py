"""Calibrate the miniature, and judge its presets on objects that were held out from training and calibration.

    python -m miniature.recipe.presets .mini/emoji.npz MODELS CKPT/judge.pt OUT --device cuda

writes OUT/presets-mini.json (the presets), OUT/presets.json (the figures) and OUT/presets.jpg. The calibration sees no
judge and no emoji: the miniature paints objects that it was trained on, in styles that it knows by word. Then each
reference is held out, and the prompt names another object. Of the same cases: the text alone, plain Redux, uniform
strengths, weights of heads and times set by hand, a linear style part of the tokens (style_tokens.py), and each preset.
"agreement" is the correlation, over all of these ways, of what the vision tower's measures say with what the judge
says. Under "aside" references are small and at a side, and prompts name no size: "place" is the share of pictures whose
object lies where the reference's does: their boxes, found by what differs from the border's colour, share half of what
both cover.

Shapes: C cases.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redux.calibration.measure import MEASURES, Axes, mean_progress, score
from redux.presets import Presets
from redux.schedule import BlockWeights, Schedule

from .calibrate import calibrate, look_at
from .evaluate import Evaluation, portraits
from .scenes import SIDE_WAYS, Scenes
from .sheet import tile
from .steering import Steered, acting, paint
from .style_tokens import StylePart
from .vocabulary import STYLES, phrase

ENDS = ("text alone", "plain Redux")
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5)
BY_HAND = {
    "no double blocks": {"blocks": "double:=0"},
    "no double blocks, single x 4": {"blocks": "double:=0, single:=4"},
    "no first half, others x 4": {"blocks": "double:=0, single:=4, single:0=0"},
    "no head 1": {"blocks": "double:.h1=0, single:.h1=0"},
    "no head 1 in double blocks": {"blocks": "double:.h1=0"},
    "from 20 % on": {"schedule": Schedule(0.2, 1.0)},
    "from 30 % on": {"schedule": Schedule(0.3, 1.0)},
}
TAUGHT = 64  # objects that teach the linear style part
BACKDROP = 0.12  # what differs less from the border's colour is background


class Study(Evaluation):
    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(arguments)
        torch.manual_seed(arguments.seed)
        count, self.wanted = arguments.count, arguments.ways
        self.objects = self.emoji.held_out[torch.randperm(len(self.emoji.held_out))[:count]]
        self.named = self.sets["trained"][torch.randperm(len(self.sets["trained"]))[:count]]
        self.scenes, self.pictures, self.tokens = self.references(self.objects)
        names = [phrase(self.emoji.names[index]) for index in self.named.tolist()]
        self.prompts, self.placed_prompts = [f"large {name}" for name in names], names
        self.placed = self.aside()
        self.seeds = [arguments.seed + index for index in range(count)]
        apart = self.emoji.train[~torch.isin(self.emoji.train, self.sets["trained"])]
        self.taught = apart[torch.randperm(len(apart))[:TAUGHT]]

    def aside(self) -> tuple[Scenes, Tensor, Tensor]:
        """The same objects small and at a side: scenes, pictures and tokens."""
        scenes = portraits(self.objects, plain=True)
        turn = torch.arange(len(self.objects), device=self.objects.device) % 4 + 1
        scenes.boxes[:, 0, 0] = 0.45
        scenes.boxes[:, 0, 1:3] = SIDE_WAYS.to(turn.device)[turn] * 0.47
        pictures = self.emoji.draw(scenes)
        return scenes, pictures, self.mini.refer(pictures)

    def places(self, presets: Presets) -> dict[str, dict[str, float]]:
        """Whether the object of the picture lies where the reference's does, and has its style."""
        ways: dict[str, dict[str, Any]] = {"text alone": {"strength": 0.0}, "plain Redux": {}}
        ways |= {f"strength {value:g}": {"strength": value} for value in (0.3, 0.5)}
        ways |= {f"preset {name}": {"blocks": presets.block_weights(name)} for name in presets.tables}
        scenes, pictures, tokens = self.placed
        found = {}
        for name, options in ways.items():
            steered = Steered(tokens, acting(**options))
            made = paint(self.mini, self.placed_prompts, steered, seeds=self.seeds, steps=self.steps, cfg=self.cfg)
            objects, styles, _ = self.name(made)
            found[name] = {
                "place": mean(overlap(boxes(made), boxes(pictures.cpu())) >= 0.5),
                "reference's object": mean(objects == self.objects),
                "prompt's object": mean(objects == self.named),
                "reference's style": mean(styles == scenes.styles[:, 0]),
            }
            print("aside,", name, found[name], flush=True)
        return found

    def made(self, tokens: Tensor | None = None, **options: Any) -> Tensor:
        if isinstance(options.get("blocks"), str):
            options["blocks"] = BlockWeights.parse(options["blocks"])
        steered = Steered(self.tokens if tokens is None else tokens, acting(**options))
        return paint(self.mini, self.prompts, steered, seeds=self.seeds, steps=self.steps, cfg=self.cfg)

    def figures(self, made: Tensor) -> dict[str, float]:
        found, styles, colours = self.name(made)
        return {
            "reference's object": mean(found == self.objects),
            "prompt's object": mean(found == self.named),
            "reference's style": mean(styles == self.scenes.styles[:, 0]),
            "reference's background": mean(colours == self.scenes.colours),
        }

    def ways(self, presets: Presets) -> dict[str, dict[str, Any]]:
        part = StylePart.fit(self.mini, self.emoji, self.taught)
        linear, true = part.of(self.tokens), part.true(self.scenes.styles[:, 0])
        return {
            "text alone": {"strength": 0.0},
            "plain Redux": {},
            **{f"strength {value:g}": {"strength": value} for value in STRENGTHS},
            **BY_HAND,
            "linear style part": {"tokens": linear},
            "linear style part, strength 0.5": {"tokens": linear, "strength": 0.5},
            "mean tokens of the style": {"tokens": true},
            "mean tokens of the style, strength 0.5": {"tokens": true, "strength": 0.5},
            **{f"preset {name}": {"blocks": presets.block_weights(name)} for name in presets.tables},
        }

    def agreement(self, pictures: dict[str, Tensor], figures: dict[str, dict[str, float]]) -> dict[str, float]:
        """Correlations over the ways, of the tower's measures with the judge's and with each other."""
        grid = []
        for index in self.taught[:8].tolist():
            scenes = portraits(self.taught.new_tensor([index] * len(STYLES)), plain=True)
            scenes.styles[:, 0], scenes.colours[:], scenes.tints[:] = torch.arange(len(STYLES)), 0, 0.0
            grid.append(torch.stack([look.statistics for look in look_at(self.mini, self.emoji.draw(scenes))]))
        axes = Axes.of(torch.stack(grid))
        looks = {name: look_at(self.mini, made) for name, made in pictures.items()}
        ends = list(zip(*(looks[name] for name in ENDS), strict=True))
        rows = []
        for name, values in figures.items():
            scores = [score(look, *pair, axes) for look, pair in zip(looks[name], ends, strict=True)]
            told = [mean_progress(scores, measure) for measure in MEASURES]
            rows.append([*told, values["reference's style"], values["reference's object"]])
        table = torch.corrcoef(torch.tensor(rows).T)
        pairs = {
            "style": (0, 3),
            "content with the judge's object": (1, 4),
            "style with content": (0, 1),
        }
        return {name: round(float(table[pair]), 3) for name, pair in pairs.items()}


def mean(right: Tensor) -> float:
    return round(float(right.float().mean()), 4)


def boxes(pictures_C3YX: Tensor) -> Tensor:
    """[C, 4]: left, top, right and bottom of what differs from the border, in 0..1."""
    edge = torch.cat((pictures_C3YX[..., 0, :], pictures_C3YX[..., -1, :], pictures_C3YX[..., 0]), -1)
    apart = (pictures_C3YX - edge.median(-1).values[..., None, None]).abs().amax(1) > BACKDROP
    rows = []
    for mask in apart:
        y, x = (torch.nonzero(mask.float().mean(side) > 0.02).flatten() for side in (1, 0))
        whole = len(x) and len(y)
        rows.append([x[0], y[0], x[-1] + 1, y[-1] + 1] if whole else [0, 0, 0, 0])
    return torch.tensor(rows).float() / pictures_C3YX.shape[-1]


def overlap(one_C4: Tensor, other_C4: Tensor) -> Tensor:
    """Intersection over union [C]."""
    low, high = torch.maximum(one_C4[:, :2], other_C4[:, :2]), torch.minimum(one_C4[:, 2:], other_C4[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    sizes = [(box[:, 2:] - box[:, :2]).prod(1) for box in (one_C4, other_C4)]
    return shared / (sizes[0] + sizes[1] - shared).clamp(min=1e-9)


def judge(study: Study, presets: Presets) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    figures, pictures = {}, {}
    for name, options in study.ways(presets).items():
        if not (name in ENDS or re.search(study.wanted, name)):
            continue
        pictures[name] = study.made(**options)
        figures[name] = study.figures(pictures[name])
        print(name, figures[name], flush=True)
    return figures, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "judge", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=100, help="of held-out cases")
    parser.add_argument("--contents", type=int, default=6)
    parser.add_argument("--cases", type=int, default=12, help="of the calibration")
    parser.add_argument("--pairs", type=int, default=150, help="of random halves")
    parser.add_argument("--calibration-steps", type=int, default=10)
    parser.add_argument("--ways", default="", help="a regular expression: judge these only")
    parser.add_argument("--presets", type=Path, help="a file of presets to judge, instead of calibrating")
    parser.add_argument("--seed", type=int, default=2027)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    start = time.monotonic()
    with torch.no_grad():
        study = Study(arguments)
        presets = (
            Presets.load(arguments.presets) if arguments.presets else calibrate(study.mini, study.emoji, arguments)
        )
        calibrated = time.monotonic() - start
        figures, pictures = judge(study, presets)
        agreement, placed = study.agreement(pictures, figures), study.places(presets)
    kept = dict(presets.measured["presets"])
    found = {"cases": arguments.count, "calibrated": kept, "held out": figures, "aside": placed, "agreement": agreement}
    text = json.dumps(found, indent=1)
    (arguments.output / "presets.json").write_text(text + "\n", "ascii")
    shown = [(name, rows[:12]) for name, rows in pictures.items()]
    tile([("reference", study.pictures[:12].cpu()), *shown]).save(arguments.output / "presets.jpg", quality=85)
    print(f"{text}\ncalibrated in {calibrated:.0f} s, {time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
