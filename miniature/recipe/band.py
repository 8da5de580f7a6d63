"""Where the prompt begins to win: which object the judge sees when a reference and a prompt name different ones.

    python -m miniature.recipe.band .mini/emoji.npz MODELS CKPT/judge.pt OUT

writes OUT/band.json, OUT/band.png and OUT/band-even.png. Each case has a reference that is held out from the training,
the prompt "large X" with another object, and noise of its own, the same at all strengths. The judge chooses among 200
objects. The prompt *wins* below the strength at which both objects are seen equally often; the *band* lies between the
strengths at which each is seen in nine of ten of the pictures in which its own end (strength 0, strength 1) shows it.

Shapes: C cases, S strengths, V variants of a case.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .evaluate import Evaluation
from .sampling import SIDE
from .slider_cases import WAYS, Kind, attention
from .vocabulary import phrase

STRENGTHS = {
    "even": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "weight": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
}
CHOSEN = {"even": WAYS["share"], "weight": WAYS["weight (core's attn_bias)"]}
KIND = Kind(references=1, tokens=64, region=False, prompt="short")
COLOURS = {"prompt": "firebrick", "reference": "slateblue"}


class Study(Evaluation):
    def measure(self, count: int, seed: int) -> dict[str, Tensor]:
        """What is seen, bool [C, V]: the prompt's object, the reference's, the former on the latter's background."""
        torch.manual_seed(seed)
        pick = torch.randint(100, (2, count))
        objects, asked = self.emoji.held_out[pick[0]], self.candidates[100:][pick[1]]
        scenes, _, tokens = self.references(objects)
        words = torch.stack([self.mini.prompt(f"large {phrase(self.emoji.names[one])}") for one in asked.tolist()])
        biases = [attention(KIND, words.shape[1], count, self.device, {n: w}, STRENGTHS[n]) for n, w in CHOSEN.items()]
        noise = torch.randn(count, 16, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).to(self.device)
        parts = []
        for name, bias in zip(CHOSEN, biases, strict=True):
            variants = len(STRENGTHS[name]) + 2
            context = torch.cat((tokens, words), 1).repeat_interleave(variants, 0)
            empty = self.mini.prompt("").expand(len(context), -1, -1)
            start = noise.repeat_interleave(variants, 0)
            latents = self.mini.integrate(start, (context, bias), (empty, None), self.steps, self.cfg)
            parts.append(self.mini.decode(latents).unflatten(0, (count, variants)))
        made = torch.cat(parts, 1)
        named, _, colours = (answer.unflatten(0, made.shape[:2]) for answer in self.name(made.flatten(0, 1)))
        prompt, reference = named == asked[:, None], named == objects[:, None]
        background = colours == scenes.colours[:, None]
        return {"prompt": prompt, "reference": reference, "prompt on the reference's background": prompt & background}


def figures(seen: dict[str, Tensor]) -> dict[str, Any]:
    out: dict[str, Any] = {"cases": len(seen["prompt"])}
    first = 0
    for name, strengths in STRENGTHS.items():
        columns = slice(first, first + len(strengths) + 2)
        shares = {who: flags[:, columns].double().mean(0).tolist() for who, flags in seen.items()}
        first = columns.stop
        grid = [0.0, *strengths, 1.0]
        out[name] = {"strengths": grid} | {who: [round(x, 4) for x in row] for who, row in shares.items()}
        out[name]["prompt wins below"] = crossing(grid, np.subtract(shares["reference"], shares["prompt"]), 0)
        out[name]["band"] = [
            crossing(grid, -np.array(shares["prompt"]), -0.9 * shares["prompt"][0]),
            crossing(grid, np.array(shares["reference"]), 0.9 * shares["reference"][-1]),
        ]
    return out


def crossing(grid: list[float], values: np.ndarray, level: float) -> float:
    """Where a rising row first reaches a level, by straight lines between its points."""
    above = int(np.argmax(values >= level))
    if above == 0:
        return grid[0]
    low, high = values[above - 1], values[above]
    return round(float(grid[above - 1] + (grid[above] - grid[above - 1]) * (level - low) / (high - low)), 3)


def plot(found: dict[str, Any], path: Path, names: Sequence[str] = tuple(STRENGTHS)) -> None:
    """The named ways beside each other, drawn at twice their size."""
    size, margin = 480, 84
    canvas = Image.new("RGB", (len(names) * (size + margin) + margin, size + 2 * margin + 46), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(26)
    for panel, name in enumerate(names):
        left, top, part = margin + panel * (size + margin), margin + 16, found[name]
        low, high = (left + end * size for end in part["band"])
        pen.rectangle((low, top, high, top + size), fill="gainsboro")
        wins = left + part["prompt wins below"] * size
        pen.line((wins, top, wins, top + size), fill="gray", width=3)
        pen.rectangle((left, top, left + size, top + size), outline="black", width=2)
        for tick in (0, 0.5, 1):
            pen.text((left + tick * size, top + size + 8), f"{tick:g}", "black", font, anchor="mt")
            pen.text((left - 8, top + (1 - tick) * size), f"{100 * tick:.0f} %", "black", font, anchor="rm")
        for who, colour in COLOURS.items():
            heights = zip(part["strengths"], part[who], strict=True)
            pen.line([(left + x * size, top + (1 - y) * size) for x, y in heights], fill=colour, width=5, joint="curve")
        pen.text((left + size / 2, top + size + 40), f"strength, {name}", "black", font, anchor="mt")
    for line, (who, colour) in enumerate(COLOURS.items()):
        pen.text((margin, 8 + 38 * line), f"the object of the {who} is seen", colour, font)
    small = canvas.resize((canvas.width // 2, canvas.height // 2), Image.Resampling.LANCZOS)
    small.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "judge", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", type=int, default=96)
    parser.add_argument("--chunk", type=int, default=8, help="cases that are run at once")
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    arguments.cfg, arguments.steps, arguments.count = 2.0, 10, 100
    start = time.monotonic()
    rows = []
    with torch.no_grad():
        study = Study(arguments)
        for number in range(-(-arguments.cases // arguments.chunk)):
            rows.append(study.measure(arguments.chunk, arguments.seed + number))
            print(f"{len(rows) * arguments.chunk} cases, {time.monotonic() - start:.0f} s", flush=True)
    found = figures({who: torch.cat([row[who] for row in rows]) for who in rows[0]})
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"judge on fresh scenes": study.judge_accuracy} | found, indent=1)
    (arguments.output / "band.json").write_text(text + "\n", "ascii")
    plot(found, arguments.output / "band.png")
    plot(found, arguments.output / "band-even.png", ("even",))
    print(text)


if __name__ == "__main__":
    main()
