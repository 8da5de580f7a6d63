"""The picture sheet and the loss curves of the README.

    python -m miniature.sheet .mini/emoji.npz MODELS CKPT/miniature.weights.pt CKPT/autoencoder.pt OUT

writes OUT/sheet.png and OUT/losses.png (matplotlib). Rows: six objects that were trained on, then six held out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .batches import SHARES
from .evaluate import LEFT, RIGHT, portraits
from .sampling import Miniature, Reference, log_strength, pool_tokens
from .scenes import Emoji
from .vocabulary import phrase

SHOWN = ("fox", "pineapple", "bicycle", "teapot", "castle", "octopus")


def rows_of(mini: Miniature, emoji: Emoji, objects: Tensor, cfg: float) -> list[Tensor]:
    """Every row is one picture for each object."""
    scenes = portraits(objects)
    pictures = emoji.draw(scenes)
    tokens = mini.refer(pictures)
    partner = tokens.roll(1, 0)
    names = [phrase(emoji.names[index]) for index in objects.tolist()]
    empty = [""] * len(names)

    def sample(prompts: list[str], *references: Reference, seed: int = 0) -> Tensor:
        return mini.sample(prompts, references, cfg=cfg, seed=seed)

    sweep = [sample(["a cat"] * len(names), Reference(tokens, log_strength(s))) for s in (0.1, 0.3, 1.0, 2.0)]
    return [
        pictures.cpu(),
        mini.decode(mini.encode(pictures)).cpu(),
        *(sample(empty, Reference(tokens), seed=seed) for seed in range(3)),
        sample(["flat style, blue background"] * len(names), Reference(tokens)),
        sample(["fluent style, striped pink background, left"] * len(names), Reference(tokens)),
        *sweep,
        sample(["a cat"] * len(names), Reference(tokens, region=LEFT)),
        sample(["side by side"] * len(names), Reference(tokens, region=LEFT), Reference(partner, region=RIGHT)),
        sample(["side by side"] * len(names), Reference(tokens), Reference(partner)),
        sample(empty, Reference(pool_tokens(tokens, 4), log_strength(4.0))),
        sample(empty, Reference(pool_tokens(tokens, 4))),
        sample([f"a {name}, noto style, yellow background" for name in names]),
        sample([f"a {name} beside a cat, dotted teal background" for name in names]),
    ]


def tile(rows: list[Tensor], gap: int = 4) -> Image.Image:
    height, width = rows[0].shape[-2:]
    canvas = torch.ones(3, len(rows) * (height + gap) + gap, len(rows[0]) * (width + gap) + gap)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = gap + r * (height + gap), gap + c * (width + gap)
            canvas[:, top : top + height, left : left + width] = picture
    return Image.fromarray((canvas.permute(1, 2, 0) * 255).round().byte().numpy())


def plot(history: list[Any], autoencoder: list[Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    left.plot([point[0] for point in autoencoder], [point[2] for point in autoencoder])
    left.set(xlabel="seconds", ylabel="PSNR, dB", title="Autoencoder (one batch, with noise on the latents)")
    for kind in SHARES:
        points = [(samples / 1e6, losses[kind]) for _, samples, losses in history if kind in losses]
        right.plot(*zip(*points, strict=True), label=kind, linewidth=0.9)
    right.set(
        xlabel="million samples", ylabel="flow matching loss", title="FLUX, tower, projector and words", yscale="log"
    )
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "weights", "autoencoder", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cfg", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.manual_seed(3)
    emoji, mini = Emoji(arguments.emoji, arguments.device), Miniature(arguments.models, arguments.device)
    trained = [emoji.names.index(name) for name in SHOWN if emoji.names.index(name) in emoji.train.tolist()]
    objects = torch.cat((torch.tensor(trained, device=arguments.device), emoji.held_out[:6]))
    arguments.output.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        tile(rows_of(mini, emoji, objects, arguments.cfg)).save(arguments.output / "sheet.png")
    states = [torch.load(path, map_location="cpu") for path in (arguments.weights, arguments.autoencoder)]
    plot(states[0]["history"], states[1]["history"], arguments.output / "losses.png")


if __name__ == "__main__":
    main()
