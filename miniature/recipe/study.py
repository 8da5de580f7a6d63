"""Two measurements behind the recipe: at which times words act, and what a second token for a style does.

    python -m miniature.recipe.study .mini/emoji.npz MODELS CKPT/judge.pt

Times: flow matching losses with the right and with a wrong style word. Tokens: `Evaluation.text` with the installed
table of words, and with one row for every word.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from redux.words import WordTable

from .evaluate import Evaluation, other
from .scenes import make_scenes
from .vocabulary import COLOURS, STYLES, phrase

TIMES = (0.9, 0.7, 0.5, 0.3)


def losses(study: Evaluation, count: int) -> list[tuple[float, float, float]]:
    """(time, loss with the right style word, loss with a wrong one), on scenes of objects that were trained on."""
    mini, emoji = study.mini, study.emoji
    objects = emoji.train[torch.randperm(len(emoji.train))[:count].to(study.device)]
    scenes = make_scenes(objects[:, None])
    latents = mini.encode(emoji.draw(scenes))
    noise = torch.randn_like(latents)

    def describe(styles: Tensor) -> Tensor:
        rows = zip(objects.tolist(), styles.tolist(), scenes.colours.tolist(), strict=True)
        words = [f"{phrase(emoji.names[o])}, {STYLES[s]} style, {list(COLOURS)[c]} background" for o, s, c in rows]
        return torch.stack([mini.prompt(text) for text in words])

    right = scenes.styles[:, 0]
    contexts = describe(right), describe(other(right, len(STYLES)))
    out = []
    for time in TIMES:
        mixed, time_B = (1 - time) * latents + time * noise, torch.full((count,), time, device=latents.device)
        errors = [(mini.flux(mixed, time_B, context) - (noise - latents)).pow(2).mean().item() for context in contexts]
        out.append((time, *errors))
    return out


def one_row_each(table: WordTable) -> WordTable:
    """The table without the further rows of a word."""
    rows = {word: row for row, word in reversed(list(enumerate(table.words)))}
    kept = sorted(rows.values())
    return WordTable(table.weight_VD[kept], tuple(table.words[row] for row in kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "judge"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    arguments.cfg, arguments.steps = 2.0, 10
    with torch.no_grad():
        study = Evaluation(arguments)
        installed = study.mini.words
        for title, table in (("one token", one_row_each(installed)), ("as installed", installed)):
            study.mini.words = table
            if table is not installed:
                for time, right, wrong in losses(study, arguments.count):
                    print(f"t = {time}: loss {right:.4f}, with a wrong style word {wrong - right:+.4f}", flush=True)
            for name, objects in study.sets.items():
                torch.manual_seed(5)
                print(f"{title}, reference and text, {name}: {study.text(objects, pictured=True)}", flush=True)
            torch.manual_seed(5)
            print(f"{title}, text alone: {study.text(study.sets['trained'], pictured=False)}", flush=True)


if __name__ == "__main__":
    main()
