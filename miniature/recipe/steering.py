"""Pictures of the miniature with a reference that acts as the pack's own weights say: strength, time, heads, negatives.

Shapes: B pictures, N reference tokens, W context width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from redux.attention import weighted_attention
from redux.reference import Reference
from redux.step_weights import Layout, StepWeights
from redux.tokens import Part

from .sampling import SIDE, Miniature


@dataclass(frozen=True)
class Steered:
    """Tokens [B, N, W] of references, and how these act on the conditioning that has them."""

    tokens: Tensor
    acts: Reference

    def rows(self, rows: Sequence[int]) -> Steered:
        return replace(self, tokens=self.tokens[list(rows)])


def acting(length: int = 64, **options: Any) -> Reference:
    """A reference of so many tokens; options are those of `redux.reference.Reference`, the response is even."""
    return Reference((Part(((1, length),), length),), **{"response": "even", **options})


@torch.no_grad()
def paint(
    mini: Miniature,
    prompts: Sequence[str],
    positive: Steered | None,
    negative: Steered | None = None,
    *,
    seeds: Sequence[int],
    steps: int = 10,
    cfg: float = 2.0,
) -> Tensor:
    """One picture for each prompt, [B, 3, 128, 128] in 0..1, each with the noise of its own seed."""
    words = [mini.prompt(text) for text in prompts]
    out = torch.empty(len(prompts), 3, 8 * SIDE, 8 * SIDE)
    for length in sorted({len(item) for item in words}):
        rows = [row for row, item in enumerate(words) if len(item) == length]
        noise = torch.stack([_noise(seeds[row]) for row in rows]).to(mini.device)
        chosen = torch.stack([words[row] for row in rows])
        empty = mini.prompt("").expand(len(rows), -1, -1)
        pair = [
            _velocity(mini, text, steered and steered.rows(rows))
            for text, steered in ((chosen, positive), (empty, negative))
        ]
        out[rows] = mini.decode(_integrate(noise, *pair, steps, cfg)).cpu()
    return out


def _noise(seed: int) -> Tensor:
    return torch.randn(16, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


Velocity = Callable[[Tensor, float], Tensor]


def _integrate(x: Tensor, positive: Velocity, negative: Velocity, steps: int, cfg: float) -> Tensor:
    times = torch.linspace(1, 0, steps + 1).tolist()
    for now, then in zip(times[:-1], times[1:], strict=True):
        velocity = positive(x, now)
        if cfg != 1:
            without = negative(x, now)
            velocity = without + cfg * (velocity - without)
        x = x + (then - now) * velocity
    return x


def _velocity(mini: Miniature, words_BTW: Tensor, steered: Steered | None) -> Velocity:
    """The network with a conditioning, by latent and time; a reference outside its time is not in the context."""
    plans: dict[Any, StepWeights] = {}
    counts = {"double": len(mini.flux.double_blocks), "single": len(mini.flux.single_blocks)}
    places = [(kind, index) for kind, count in counts.items() for index in range(count)]

    def velocity(x: Tensor, time: float) -> Tensor:
        weight = steered.acts.weight(1 - time) if steered else 0.0
        times = torch.full((len(x),), time, device=x.device)
        if steered is None or weight == 0:
            return mini.flux(x, times, words_BTW)
        if weight not in plans:
            layout = Layout(words_BTW.shape[1], SIDE, SIDE)
            plans[weight] = StepWeights(((steered.acts, weight),), layout, x.device)
        turn = iter(places)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return weighted_attention(q, k, v, plans[weight].plan(*next(turn), heads=q.shape[1]))

        context = torch.cat((steered.tokens, words_BTW), 1)
        return mini.flux(x, times, context, None if plans[weight].is_plain else attend)

    return velocity
