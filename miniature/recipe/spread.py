"""Why one strength leads to different places in different cases, and what looking ahead would change.

    python -m miniature.recipe.spread .mini/emoji.npz MODELS OUT [--cases 24] [--device cuda]

writes OUT/spread.json. Each case has one held-out reference, a prompt that names another object, every second one also
a style and a background, and noise of its own. Progress is as in slider.py, in pixels (16 x 16), of the even response;
that of a step is the same measured on the latents that the step foresees. Two things are asked: what goes with a case's
progress at strength 0.5 (correlations over cases); and what is left of the spread if, in the steps that are named, the
strength is set so that what the step foresees lies at the wanted part of the way. That costs ELEVEN more calls in each
of these steps here; two or three would do.

Shapes: C cases, V variants of a case, T words, L tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from redux.attention import prepare_groups, weighted_attention

from .evaluate import other
from .sampling import SIDE, Miniature
from .scenes import Emoji, make_scenes
from .vocabulary import COLOURS, STYLES, phrase

ELEVEN = torch.linspace(0, 1, 11)
WANTED = (0.2, 0.5, 0.8)
REGULATED: tuple[tuple[int, ...], ...] = ((), (1,), (0, 1, 2))
TOKENS, IMAGE = 64, (SIDE // 2) ** 2
STEPS, CFG = 10, 2.0

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def progress(points_VF: Tensor) -> Tensor:
    """d0 / (d0 + d1) [V], the first and the last of the variants being the ends."""
    from_first, from_last = ((points_VF - points_VF[[end]]).norm(dim=1) for end in (0, -1))
    return from_first / (from_first + from_last).clamp(min=1e-9)


def evenly(strengths_V: Tensor, words: int, device: str, shares: list[Tensor] | None = None) -> Attend:
    """Attention with a strength for each variant; the natural shares of the image's queries are added to `shares`."""
    total = TOKENS + words + IMAGE
    share_VL = torch.ones(len(strengths_V), total)
    share_VL[:, TOKENS:] = strengths_V[:, None]
    plan = prepare_groups([(0, TOKENS, 0.0, share_VL)], total, device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if shares is not None:
            logits = q[:, :, TOKENS + words :] @ k.mT * q.shape[-1] ** -0.5
            shares.append(logits.softmax(-1)[..., :TOKENS].sum(-1).mean((1, 2)))
        return weighted_attention(q, k, v, plan)

    return attend


class Case:
    """A reference [1, 64, W], words [1, T, W] and noise."""

    def __init__(self, mini: Miniature, tokens: Tensor, text: str, seed: int) -> None:
        self.mini, self.tokens, self.words = mini, tokens, mini.prompt(text)[None]
        self.empty = mini.prompt("")[None]
        noise = torch.randn(1, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        self.noise = noise.to(mini.device)

    def velocity(self, x: Tensor, time: float, strengths: Tensor, shares: list[Tensor] | None = None) -> Tensor:
        count, times = len(x), torch.full((len(x),), time, device=x.device)
        context = torch.cat((self.tokens, self.words), 1).expand(count, -1, -1)
        attend = evenly(strengths, self.words.shape[1], self.mini.device, shares)
        without = self.mini.flux(x, times, self.empty.expand(count, -1, -1), None)
        return without + CFG * (self.mini.flux(x, times, context, attend) - without)

    def sample(self, strengths: Tensor, regulated: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor]:
        """Progress of the pictures [V]; of what each step foresees, and natural share in each step [STEPS, V]."""
        x, acting = self.noise.expand(len(strengths), -1, -1, -1), strengths
        times = torch.linspace(1, 0, STEPS + 1).tolist()
        foreseen, natural = [], []
        for step, (now, then) in enumerate(zip(times[:-1], times[1:], strict=True)):
            if step in regulated:
                acting = torch.tensor([self.aim(x[[i]], now, float(one)) for i, one in enumerate(strengths)])
            shares: list[Tensor] = []
            velocity = self.velocity(x, now, acting, shares)
            foreseen.append(progress((x - now * velocity).flatten(1)).cpu())
            natural.append(torch.stack(shares).mean(0).cpu())
            x = x + (then - now) * velocity
        pixels = avg_pool2d(self.mini.decode(x), 8).flatten(1)
        return progress(pixels).cpu(), torch.stack(foreseen), torch.stack(natural)

    def aim(self, x: Tensor, now: float, wanted: float) -> float:
        """The strength with which the step foresees the wanted part of the way."""
        if wanted in (0.0, 1.0):
            return wanted
        ahead = x - now * self.velocity(x.expand(len(ELEVEN), -1, -1, -1), now, ELEVEN)
        found = progress(ahead.flatten(1)).cummax(0).values.cpu()
        after = int((found < wanted).sum().clamp(1, len(ELEVEN) - 1))
        low, high = found[after - 1 : after + 1].tolist()
        return float(ELEVEN[after - 1]) + 0.1 * min(1.0, max(0.0, (wanted - low) / max(high - low, 1e-6)))


def make_cases(emoji: Emoji, mini: Miniature, count: int, seed: int) -> list[Case]:
    torch.manual_seed(seed)
    scenes = make_scenes(emoji.held_out[torch.randint(len(emoji.held_out), (count, 1))])
    tokens = mini.refer(emoji.draw(scenes))
    named = emoji.train[torch.randint(len(emoji.train), (count,))].tolist()
    style, colour = other(scenes.styles[:, 0], len(STYLES)), other(scenes.colours, len(COLOURS))
    texts = [f"large {phrase(emoji.names[index])}" for index in named]
    for index in range(0, count, 2):
        texts[index] += f", {STYLES[style[index]]} style, {list(COLOURS)[colour[index]]} background"
    return [Case(mini, tokens[[index]], text, 1000 * seed + index) for index, text in enumerate(texts)]


def correlation(a: Tensor, b: Tensor) -> float:
    return round(float(torch.corrcoef(torch.stack((a, b)))[0, 1]), 3)


def figures(cases: Sequence[Case]) -> dict[str, Any]:
    ends = torch.tensor([0.0, *WANTED, 1.0])
    free = [case.sample(ends) for case in cases]
    middle = torch.stack([done[0][2] for done in free])
    out: dict[str, Any] = {"cases": len(cases), "goes with the progress at 0.5": {}, "regulated steps": {}}
    for step in (0, 1, 2, 3):
        out["goes with the progress at 0.5"][f"step {step}"] = {
            "natural share of plain Redux": correlation(middle, torch.stack([done[2][step, -1] for done in free])),
            "what it foresees": correlation(middle, torch.stack([done[1][step, 2] for done in free])),
        }
    for steps in REGULATED:
        made = [done[0] for done in free] if not steps else [case.sample(ends, steps)[0] for case in cases]
        found = torch.stack(made)[:, 1:-1]
        name = ", ".join(map(str, steps)) or "none"
        rows = {"strengths": WANTED, "progress": found.mean(0).tolist(), "spread": found.std(0).tolist()}
        out["regulated steps"][name] = {key: [round(value, 3) for value in row] for key, row in rows.items()}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    emoji, mini = Emoji(arguments.emoji, arguments.device), Miniature(arguments.models, arguments.device)
    with torch.no_grad():
        found = figures(make_cases(emoji, mini, arguments.cases, arguments.seed))
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    (arguments.output / "spread.json").write_text(text + "\n", "ascii")
    print(text)


if __name__ == "__main__":
    main()
