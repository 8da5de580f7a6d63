"""An independent judge: a small classifier of scenes that never saw a generated picture or a weight of the miniature.

    python -m miniature.recipe.judge .mini/emoji.npz CKPT/judge.pt --seconds 75

It names the object (among all concepts, those held out from the miniature included), the style and the background
colour of a picture with one object. Its own accuracy on fresh scenes is printed and stored as `accuracy`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from .common import channels_last, save_atomically
from .scenes import Emoji, Scenes, make_scenes
from .vocabulary import COLOURS, STYLES


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.third = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu()
        y = self.norms[1](self.second(y)).relu()
        return (self.norms[2](self.third(y)) + self.skip(x)).relu()


class Judge(nn.Module):
    """Pictures [B, 3, 128, 128] in 0..1 -> logits for object, style and colour."""

    def __init__(self, concepts: int, width: int = 48) -> None:
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 8 * width]
        self.body = nn.Sequential(*(Residual(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)))
        self.heads = nn.ModuleList(nn.Linear(sizes[-1] * 5, n) for n in (concepts, len(STYLES), len(COLOURS)))

    def embed(self, pictures: Tensor) -> Tensor:
        """Features [B, F]: means over the picture and over its quarters."""
        x = self.body(avg_pool2d(pictures, 2) * 2 - 1)
        quarters = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return torch.cat((x.mean((2, 3)), quarters), 1)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        features = self.embed(pictures)
        return [head(features) for head in self.heads]


def draw(emoji: Emoji, count: int) -> tuple[Tensor, Scenes]:
    objects = torch.randint(len(emoji.names), (count, 1), device=emoji.device)
    scenes = make_scenes(objects)
    return emoji.draw(scenes), scenes


def disturb(pictures: Tensor) -> Tensor:
    """Noise, blur and brightness, so that the judge does not hang on single pixels."""
    count, device = len(pictures), pictures.device
    blurred = nn.functional.interpolate(avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    pictures = torch.lerp(pictures, blurred, torch.rand(count, 1, 1, 1, device=device))
    pictures = pictures * (1 + torch.randn(count, 3, 1, 1, device=device) * 0.04)
    return pictures + torch.randn_like(pictures) * torch.rand(count, 1, 1, 1, device=device) * 0.06


def answers(scenes: Scenes) -> tuple[Tensor, Tensor, Tensor]:
    return scenes.objects[:, 0], scenes.styles[:, 0], scenes.colours


def accuracy(judge: Judge, emoji: Emoji) -> list[float]:
    """Shares of right answers (object, style, colour) on 2,048 fresh scenes."""
    judge.eval()
    right = torch.zeros(3)
    with torch.no_grad():
        for _ in range(8):
            pictures, scenes = draw(emoji, 256)
            pairs = zip(judge(pictures), answers(scenes), strict=True)
            right += torch.stack([(logits.argmax(1) == answer).float().mean() for logits, answer in pairs]).cpu()
    return (right / 8).tolist()


def load_judge(path: Path, device: str) -> tuple[Judge, list[float]]:
    """The judge and its accuracy."""
    state = torch.load(path, map_location=device)
    judge = Judge(state["concepts"]).to(device)
    judge.load_state_dict({key: value.float() for key, value in state["weights"].items()})
    return judge.eval().requires_grad_(False), state["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=75)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    torch.manual_seed(7)
    torch.set_float32_matmul_precision("high")
    emoji = Emoji(arguments.emoji, arguments.device)
    judge = Judge(len(emoji.names)).to(arguments.device)
    channels_last(judge)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.02)
    start, step = time.monotonic(), 0
    while (spent := time.monotonic() - start) < arguments.seconds:
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 200) * max(0.01, 1 - spent / arguments.seconds)
        pictures, scenes = draw(emoji, arguments.batch)
        with torch.autocast(arguments.device, torch.bfloat16):
            outputs = judge(disturb(pictures).to(memory_format=torch.channels_last))
        pairs = zip(outputs, answers(scenes), strict=True)
        losses = [cross_entropy(logits.float(), answer, label_smoothing=0.05) for logits, answer in pairs]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"judge {step} {spent:.0f} s loss {loss.item():.3f}", flush=True)
    result = accuracy(judge, emoji)
    print(f"judge: {step} steps; object {result[0]:.4f}, style {result[1]:.4f}, colour {result[2]:.4f}")
    weights = {key: value.half() if value.is_floating_point() else value for key, value in judge.state_dict().items()}
    save_atomically({"concepts": len(emoji.names), "weights": weights, "accuracy": result}, arguments.output)


if __name__ == "__main__":
    main()
