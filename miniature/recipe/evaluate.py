"""Measure the installed miniature with an independent judge.

    python -m miniature.recipe.evaluate .mini/emoji.npz MODELS CKPT/judge.pt OUT --device cuda

writes OUT/figures.json. Objects are looked for among 200: the 100 held out and 100 that were trained on. References
are single objects, nearly central, in random styles on random backgrounds. `--count` takes fewer objects.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .judge import load_judge
from .sampling import Miniature, Reference, log_strength, pool_tokens
from .scenes import Emoji, Scenes, make_scenes
from .vocabulary import COLOURS, STYLES, phrase

LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1
RIGHT = 1 - LEFT
PLAIN = 0


def portraits(objects: Tensor, plain: bool = False) -> Scenes:
    """Central scenes of one object each."""
    scenes = make_scenes(objects[:, None])
    count = len(objects)
    scenes.boxes[:, 0, 0] = 0.85
    scenes.boxes[:, 0, 1:] = torch.randn(count, 3, device=objects.device) * 0.03
    return replace(scenes, patterns=torch.zeros_like(scenes.patterns)) if plain else scenes


def other(values: Tensor, count: int) -> Tensor:
    """Random values in range(count) that differ from the given ones."""
    return (values + torch.randint(1, count, values.shape, device=values.device)) % count


class Evaluation:
    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(11)
        self.emoji = Emoji(arguments.emoji, arguments.device)
        self.mini = Miniature(arguments.models, arguments.device)
        self.judge, self.judge_accuracy = load_judge(arguments.judge, arguments.device)
        self.device, self.cfg, self.steps = arguments.device, arguments.cfg, arguments.steps
        choice = torch.randperm(len(self.emoji.train))[:100].to(arguments.device)
        self.candidates = torch.cat((self.emoji.held_out, self.emoji.train[choice]))
        self.sets = {"held out": self.emoji.held_out[: arguments.count], "trained": self.emoji.train[choice]}
        self.sets["trained"] = self.sets["trained"][: arguments.count]

    def sample(self, prompts: Sequence[str], references: Sequence[Reference] = (), seed: int = 0) -> Tensor:
        return self.mini.sample(prompts, references, steps=self.steps, cfg=self.cfg, seed=seed)

    def name(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Object (among the candidates), style and colour that the judge sees."""
        objects, styles, colours = self.judge(pictures.to(self.device))
        return self.candidates[objects[:, self.candidates].argmax(1)], styles.argmax(1), colours.argmax(1)

    def likeness(self, pictures: Tensor, others: Tensor) -> float:
        """Mean cosine of the judge's features."""
        pair = self.judge.embed(pictures.to(self.device)), self.judge.embed(others.to(self.device))
        return float(cosine_similarity(*pair).mean())

    def references(self, objects: Tensor) -> tuple[Scenes, Tensor, Tensor]:
        scenes = portraits(objects, plain=True)
        pictures = self.emoji.draw(scenes)
        return scenes, pictures, self.mini.refer(pictures)

    def autoencoder(self, objects: Tensor) -> float:
        pictures = self.emoji.draw(portraits(objects))
        error = (self.mini.decode(self.mini.encode(pictures)) - pictures).pow(2).mean((1, 2, 3))
        return float((-10 * error.log10()).mean())

    def variation(self, objects: Tensor) -> dict[str, float]:
        scenes, pictures, tokens = self.references(objects)
        made = [self.sample([""] * len(objects), [Reference(tokens)], seed) for seed in (0, 1)]
        named = self.name(made[0])
        return {
            "object": share(named[0] == objects),
            "style": share(named[1] == scenes.styles[:, 0]),
            "background": share(named[2] == scenes.colours),
            "likeness": self.likeness(made[0], pictures),
            "pixels that differ between two seeds by over 1/16": share((made[0] - made[1]).abs().amax(1) > 1 / 16),
            "judge on the references": share(self.name(pictures)[0] == objects),
        }

    def text(self, objects: Tensor, pictured: bool) -> dict[str, float]:
        """Style and background from the text; the object from the text too, or from a picture that differs in both."""
        scenes, _, tokens = self.references(objects)
        style, colour = other(scenes.styles[:, 0], len(STYLES)), other(scenes.colours, len(COLOURS))
        prompts = [f"{STYLES[s]} style, {list(COLOURS)[c]} background" for s, c in zip(style, colour, strict=True)]
        if not pictured:
            names = [phrase(self.emoji.names[index]) for index in objects.tolist()]
            prompts = [f"a {name}, {prompt}" for name, prompt in zip(names, prompts, strict=True)]
        named = self.name(self.sample(prompts, [Reference(tokens)] if pictured else []))
        return {
            "object": share(named[0] == objects),
            "style": share(named[1] == style),
            "background": share(named[2] == colour),
        }

    def strength(self, objects: Tensor, prompts: Sequence[str]) -> dict[str, dict[str, float]]:
        _, pictures, tokens = self.references(objects)
        out = {}
        for value in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0):
            made = self.sample(prompts, [Reference(tokens, log_strength(value))])
            out[str(value)] = {
                "likeness": self.likeness(made, pictures),
                "object": share(self.name(made)[0] == objects),
            }
        return out

    def region(self, objects: Tensor, prompts: Sequence[str]) -> dict[str, float]:
        """One reference in the left half: is its object seen there, and is it seen in the other half?"""
        tokens = self.references(objects)[2]
        made = self.sample(prompts, [Reference(tokens, region=LEFT)])
        inside, outside = (self.name(alone(made, side))[0] == objects for side in (0, 1))
        return {"inside": share(inside), "outside": share(outside)}

    def two(self, objects: Tensor) -> dict[str, float]:
        """Two references, one in each half; and the same without regions, in either order."""
        first, second = objects, objects.roll(1)
        pair = [self.references(first)[2], self.references(second)[2]]
        regions = [Reference(tokens, region=where) for tokens, where in zip(pair, (LEFT, RIGHT), strict=True)]
        prompts = ["side by side"] * len(first)
        made = self.sample(prompts, regions)
        left, right = (self.name(alone(made, side))[0] for side in (0, 1))
        free = self.sample(prompts, [Reference(tokens) for tokens in pair])
        free_left, free_right = (self.name(alone(free, side))[0] for side in (0, 1))
        ordered, swapped = (free_left == first) & (free_right == second), (free_left == second) & (free_right == first)
        return {
            "left": share(left == first),
            "right": share(right == second),
            "both": share((left == first) & (right == second)),
            "both, without regions, in either order": share(ordered | swapped),
        }

    def pooling(self, objects: Tensor, prompts: Sequence[str]) -> dict[str, dict[str, float]]:
        _, pictures, tokens = self.references(objects)
        out = {}
        for side in (8, 4, 2, 1):
            pooled = pool_tokens(tokens, side)
            weights = {"normalized": log_strength(64 / side**2), "not normalized": 0.0}
            for name, weight in weights.items():
                made = self.sample(prompts, [Reference(pooled, weight)])
                out[f"{side} x {side}, {name}"] = {
                    "object": share(self.name(made)[0] == objects),
                    "likeness": self.likeness(made, pictures),
                }
        return out

    def run(self) -> dict[str, Any]:
        held, trained = self.sets["held out"], self.sets["trained"]
        empty, cats = [""] * len(held), ["a cat"] * len(held)
        return {
            "judge on fresh scenes": self.judge_accuracy,
            "autoencoder, dB": self.autoencoder(held),
            "variation": {name: self.variation(objects) for name, objects in self.sets.items()},
            "text": {"trained": self.text(trained, pictured=False)},
            "text and picture": {name: self.text(objects, pictured=True) for name, objects in self.sets.items()},
            "strength, no prompt": self.strength(held, empty),
            "strength, a cat": self.strength(held, cats),
            "region": {name: self.region(objects, [""] * len(objects)) for name, objects in self.sets.items()},
            "region, a cat elsewhere": {name: self.region(x, ["a cat"] * len(x)) for name, x in self.sets.items()},
            "two regions": {name: self.two(objects) for name, objects in self.sets.items()},
            "pooling": self.pooling(held, empty),
            "pooling, blue background": self.pooling(held, ["blue background"] * len(held)),
        }


def alone(pictures: Tensor, side: int) -> Tensor:
    """The left (0) or right (1) half of pictures; the other half is painted with the mean colour of the border."""
    half = pictures.shape[-1] // 2
    keep = slice(0, half) if side == 0 else slice(half, None)
    border = torch.cat((pictures[..., 0, keep], pictures[..., -1, keep]), -1).mean(-1)
    out = border[..., None, None].expand_as(pictures).clone()
    out[..., keep] = pictures[..., keep]
    return out


def share(right: Tensor) -> float:
    return round(float(right.float().mean()), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "judge", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    start = time.monotonic()
    with torch.no_grad():
        figures = Evaluation(arguments).run()
    settings = {"cfg": arguments.cfg, "steps": arguments.steps, "objects": arguments.count}
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings | figures, indent=1)
    (arguments.output / "figures.json").write_text(text + "\n", "ascii")
    print(f"{text}\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
