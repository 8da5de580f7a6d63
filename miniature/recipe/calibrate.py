"""The miniature as the painter of a calibration (`redux.calibration`), and what it paints there."""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from redux.calibration import Course, Picture, Progress, Settings
from redux.calibration.measure import Look
from redux.model import fingerprint
from redux.presets import Presets, rules_of
from redux.schedule import BlockWeights, ModelName

from .batches import pixel_values
from .sampling import Miniature
from .scenes import Emoji
from .steering import Steered, acting, paint
from .vocabulary import STYLES, phrase

BACKGROUND = "white background"  # so that styles do not differ in it


class MiniaturePainter:
    """Paints for a calibration; the tower of the miniature looks."""

    def __init__(self, mini: Miniature, models: Path, steps: int, cfg: float) -> None:
        self.mini, self.steps, self.cfg = mini, steps, cfg
        self.about = f"{steps} steps, cfg {cfg}"
        weights = load_file(models / "diffusion_models" / "redux-mini-flux.safetensors")
        counts = len(mini.flux.double_blocks), len(mini.flux.single_blocks)
        names = [f"double_blocks.{index}.img_mod.lin.bias" for index in range(counts[0])]
        names += [f"single_blocks.{index}.modulation.lin.bias" for index in range(counts[1])]
        digest = fingerprint({f"{index:03}": weights[name] for index, name in enumerate(names)})
        self.model = ModelName("redux-mini-flux", digest, *counts, mini.flux.config.heads)
        self._tokens: dict[Picture, Tensor] = {}

    def look(self, picture: Picture) -> Look:
        return look_at(self.mini, self.paint(picture))[0]

    def paint(self, picture: Picture) -> Tensor:
        steered = None
        if picture.reference is not None:
            if picture.reference not in self._tokens:
                self._tokens[picture.reference] = self.mini.refer(self.paint(picture.reference).to(self.mini.device))
            blocks = BlockWeights(rules_of(picture.weights) if picture.weights else ())
            steered = Steered(self._tokens[picture.reference], acting(blocks=blocks))
        return paint(self.mini, [picture.text], steered, seeds=[picture.seed], steps=self.steps, cfg=self.cfg)


def look_at(mini: Miniature, pictures: Tensor) -> list[Look]:
    features_BND = mini.redux.tower(pixel_values(pictures.to(mini.device), mini.matrix))
    return [Look.of(features_ND, (8, 8)) for features_ND in features_BND]


def settings_for(emoji: Emoji, arguments: argparse.Namespace) -> Settings:
    """Objects that were trained on, which the judged cases do not have, and the four styles."""
    named = ("red apple", "guitar", "house", "open book", "fox", "airplane", "red heart", "mushroom")
    trained = {phrase(emoji.names[index]) for index in emoji.train.tolist()}
    contents = tuple(f"large {name}, {BACKGROUND}" for name in named if name in trained)[: arguments.contents]
    return Settings(contents, tuple(f"{style} style" for style in STYLES), arguments.cases, pairs=arguments.pairs)


def calibrate(mini: Miniature, emoji: Emoji, arguments: argparse.Namespace) -> Presets:
    arguments.output.mkdir(parents=True, exist_ok=True)
    painter = MiniaturePainter(mini, arguments.models, arguments.calibration_steps, arguments.cfg)

    def report(progress: Progress) -> None:
        if progress.done % 50 == 0:
            print(f"{progress.done} of {progress.total}, {progress.seconds or 0:.0f} s more", flush=True)

    course = Course(painter, settings_for(emoji, arguments), arguments.output / "looks", report)
    presets, path = course.run(), arguments.output / "presets-mini.json"
    path.unlink(missing_ok=True)
    presets.save(path)
    return presets
