"""The picture sheet and the loss curves of the README.

    python -m miniature.recipe.sheet .mini/emoji.npz MODELS OUT --losses CKPT/miniature.weights.pt

writes OUT/sheet.jpg and, of each checkpoint after `--losses` (the autoencoder's too), OUT/losses-NAME.png (matplotlib).
Columns: six objects that were trained on, then six held out, or six further words where text alone is shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .batches import SHARES
from .evaluate import LEFT, RIGHT, portraits
from .sampling import Miniature, Reference, log_strength, pool_tokens
from .scenes import Emoji
from .vocabulary import STYLES, phrase

TRAINED = ("fox", "pineapple", "hamburger", "teapot", "penguin", "rocket")
HELD_OUT = ("elephant", "giraffe", "croissant", "umbrella", "ghost", "telescope")
NAMED = ("cat", "house", "guitar", "castle", "tulip", "pizza")  # on the right, where text alone is shown


def rows_of(mini: Miniature, emoji: Emoji, objects: Tensor) -> list[tuple[str, Tensor]]:
    """Every row is a caption and one picture for each object."""
    pictures = emoji.draw(portraits(objects))
    tokens = mini.refer(pictures)
    names = [phrase(name) for name in (*TRAINED, *NAMED)]
    whole, left, right = Reference(tokens), Reference(tokens, region=LEFT), Reference(tokens.roll(1, 0), region=RIGHT)
    few, large = pool_tokens(tokens, 4), "a large {}, blue background"

    def sample(prompt: str, *references: Reference, seed: int = 0) -> Tensor:
        return mini.sample([prompt.format(name) for name in names], references, seed=seed)

    variations = [(f"reference alone, seed {seed}", sample("", whole, seed=seed)) for seed in range(3)]
    strengths = [
        (f'"a pizza", strength {value}', sample("a pizza", Reference(tokens, log_strength(value))))
        for value in (0.0, 0.1, 0.2, 0.4, 1.0, 2.0)
    ]
    return [
        ("reference", pictures.cpu()),
        ("autoencoder", mini.decode(mini.encode(pictures)).cpu()),
        *variations,
        ('"blue background"', sample("blue background", whole)),
        ('"striped pink background, left"', sample("striped pink background, left", whole)),
        ('"fluent style"', sample("fluent style", whole)),
        ('"flat style"', sample("flat style", whole)),
        *strengths,
        ("region: left half", sample("", left)),
        ('"a pizza", region: left half', sample("a pizza", left)),
        ("two references, two regions", sample("side by side", left, right)),
        ("two references, no region", sample("side by side", whole, Reference(right.tokens))),
        ("4 x 4 tokens, normalized", sample("", Reference(few, log_strength(4.0)))),
        ("4 x 4 tokens, not normalized", sample("", Reference(few))),
        ('"a NAME, yellow background"', sample("a {}, yellow background")),
        *((f'"a large NAME, {style} style"', sample(f"{large}, {style} style")) for style in STYLES),
    ]


def tile(rows: list[tuple[str, Tensor]], gap: int = 4, margin: int = 250) -> Image.Image:
    """Captions on the left, pictures on the right."""
    height, width = rows[0][1].shape[-2:]
    size = (margin + len(rows[0][1]) * (width + gap), len(rows) * (height + gap) + gap)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for number, (caption, pictures) in enumerate(rows):
        top = gap + number * (height + gap)
        pen.text((8, top + height // 2 - 8), caption, "black", ImageFont.load_default(16))
        for column, picture in enumerate(pictures):
            pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
            canvas.paste(Image.fromarray(pixels), (margin + column * (width + gap), top))
    return canvas


def plot(checkpoint: Path, folder: Path) -> None:
    """The history of a training, as losses-NAME.png after the checkpoint's name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    history = torch.load(checkpoint, map_location="cpu")["history"]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    if isinstance(history[0][2], dict):
        for kind in SHARES:
            points = [(samples / 1e6, losses[kind]) for _, samples, losses in history if kind in losses]
            axes.plot(*zip(*points, strict=True), label=kind, linewidth=0.9)
        title = "FLUX, tower, projector and words"
        axes.set(xlabel="million samples", ylabel="flow matching loss", title=title, yscale="log")
        axes.legend(fontsize=8, ncols=2)
    else:
        axes.plot([seconds for seconds, _, _ in history], [psnr for _, _, psnr in history])
        axes.set(xlabel="seconds", ylabel="PSNR, dB", title="Autoencoder (one batch, with noise on the latents)")
    figure.tight_layout()
    figure.savefig(folder / f"losses-{checkpoint.name.split('.')[0]}.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("emoji", "models", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--losses", type=Path, nargs="*", default=[])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.manual_seed(3)
    emoji, mini = Emoji(arguments.emoji, arguments.device), Miniature(arguments.models, arguments.device)
    objects = torch.tensor([emoji.names.index(name) for name in (*TRAINED, *HELD_OUT)], device=arguments.device)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        tile(rows_of(mini, emoji, objects)).save(arguments.output / "sheet.jpg", quality=88)
    for checkpoint in arguments.losses:
        plot(checkpoint, arguments.output)


if __name__ == "__main__":
    main()
