"""Train the TAESD-shaped autoencoder on scenes.

    python -m miniature.recipe.train_autoencoder .mini/emoji.npz CKPT/autoencoder.pt --seconds 270

Stops after `--seconds` of training; a second run goes on from the file, so the sum counts. The file holds `encoder`,
`decoder`, `shift` and `scale` (of the latents: mean and standard deviation), `seconds` and `history`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .autoencoder import build_decoder, build_encoder
from .common import channels_last, half, save_atomically
from .scenes import Emoji, make_scenes

RATE = 1e-3
NOISE = 0.15  # largest standard deviation of the noise on latents, so that the decoder forgives a sampler's errors


def draw_pictures(emoji: Emoji, count: int) -> Tensor:
    """Scenes with one object, and a quarter with two, of objects that may be trained on: [count, 3, 128, 128]."""
    train = emoji.train
    parts = []
    for number, kinds in ((count - count // 4, 1), (count // 4, 2)):
        objects = train[torch.randint(len(train), (number, kinds), device=train.device)]
        parts.append(emoji.draw(make_scenes(objects, one_style=False)))
    return torch.cat(parts)


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """Absolute differences of pixels and of their horizontal and vertical steps, and squared ones of 4 x 4 means."""
    steps = [(a.diff(dim=axis) - b.diff(dim=axis)).abs().mean() for axis in (2, 3) for a, b in ((output, target),)]
    coarse = nn.functional.avg_pool2d(output - target, 4).pow(2).mean()
    return (output - target).abs().mean() + 0.5 * sum(steps) + 4 * coarse


def latent_loss(latents: Tensor) -> Tensor:
    """Keeps each channel near mean 0 and deviation 1, so that one scale and one shift fit all channels."""
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return 1e-2 * (mean.pow(2).mean() + (deviation - 1).pow(2).mean()) + 1e-4 * latents.pow(2).mean()


def rate_at(progress: float, step: int) -> float:
    return RATE * min(1.0, (step + 1) / 300) * max(0.01, (1 - progress))


def train(emoji: Emoji, path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    device = emoji.device
    encoder, decoder = build_encoder().to(device), build_decoder().to(device)
    state: dict[str, Any] = {"seconds": 0.0, "step": 0, "history": []}
    if path.exists():
        state = torch.load(path, map_location=device)
        encoder.load_state_dict(state["encoder"])
        decoder.load_state_dict(state["decoder"])
    both = channels_last(nn.ModuleList([encoder, decoder]))
    optimizer = torch.optim.AdamW(both.parameters(), RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    encode = torch.compile(encoder) if device.type == "cuda" else encoder
    decode = torch.compile(decoder) if device.type == "cuda" else decoder
    before, start = state["seconds"], time.monotonic()
    while (spent := time.monotonic() - start) < arguments.seconds:
        step, total = state["step"], arguments.total or before + arguments.seconds
        optimizer.param_groups[0]["lr"] = rate_at((before + spent) / total, step)
        pictures = draw_pictures(emoji, arguments.batch).to(memory_format=torch.channels_last)
        with half(device):
            latents = encode(pictures)
            strength = torch.rand(len(latents), 1, 1, 1, device=device) * NOISE
            output = decode(latents + torch.randn_like(latents) * strength)
        loss = picture_loss(output.float(), pictures) + latent_loss(latents.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        state["step"] = step + 1
        if step % arguments.report == 0:
            error = (output.detach().float().clamp(0, 1) - pictures).pow(2).mean((1, 2, 3))
            psnr = float((-10 * error.clamp(min=1e-9).log10()).mean())
            state["history"].append((round(before + spent, 1), loss.item(), psnr))
            print(f"autoencoder {step} {before + spent:.0f} s loss {loss.item():.4f} psnr {psnr:.2f}", flush=True)
    with torch.no_grad(), half(device):
        latents = encoder(draw_pictures(emoji, min(1024, 8 * arguments.batch)).to(memory_format=torch.channels_last))
    weights = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "optimizer": optimizer.state_dict()}
    moments = {"shift": float(latents.float().mean()), "scale": float(latents.float().std())}
    return state | weights | moments | {"seconds": before + time.monotonic() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--total", type=float, help="seconds of all runs together, for the learning rate")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--report", type=int, default=250)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    state = train(Emoji(arguments.emoji, arguments.device), arguments.output, arguments)
    save_atomically(state, arguments.output)
    print(f"latents: mean {state['shift']:.3f}, deviation {state['scale']:.3f}; {state['step']} steps")


if __name__ == "__main__":
    main()
