"""The cases of `miniature.recipe.slider`: pictures from strength 0 to 1 in each way, and what is measured of them.

Shapes: C cases, S strengths, V variants of a case, B = C x V, L tokens, W context width, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

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
