"""A TAESD-shaped autoencoder, with the plain `nn.Sequential` numbering of the files published by madebyollin/taesd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import relu

LATENT = 16
FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159  # of FLUX's latent format


class ConvBlock(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(size, size), nn.ReLU(), conv(size, size), nn.ReLU(), conv(size, size))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def build_encoder(width: int = 64) -> nn.Sequential:
    """Pictures [B, 3, Y, X] in 0..1 -> latents [B, 16, Y / 8, X / 8]."""
    layers: list[nn.Module] = [conv(3, width), ConvBlock(width)]
    for _ in range(3):
        layers += [conv(width, width, 2, bias=False), *(ConvBlock(width) for _ in range(3))]
    return nn.Sequential(*layers, conv(width, LATENT))


def build_decoder(width: int = 64) -> nn.Sequential:
    """Latents [B, 16, Y, X] -> pictures [B, 3, 8 Y, 8 X], about 0..1."""
    layers: list[nn.Module] = [SoftClamp(), conv(LATENT, width), nn.ReLU()]
    for _ in range(3):
        layers += [ConvBlock(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), conv(width, width, bias=False)]
    return nn.Sequential(*layers, ConvBlock(width), conv(width, 3))


def load_autoencoder(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """`encoder` and `decoder` (state dicts), `shift` and `scale` (mean and deviation of the latents).

    Args:
        path: what `train_autoencoder` wrote, or the exported `redux-mini-vae.safetensors`.
    """
    if path.suffix != ".safetensors":
        state: dict[str, Any] = torch.load(path, map_location=device)
        return state
    weights = {key: value.float().to(device) for key, value in load_file(path).items()}
    parts = {
        part: {key.split(".", 1)[1]: value for key, value in weights.items() if key.startswith(f"taesd_{part}.")}
        for part in ("encoder", "decoder")
    }
    scale = float(weights["vae_scale"])
    return parts | {"scale": scale / FLUX_SCALE, "shift": (FLUX_SHIFT - float(weights["vae_shift"])) * scale}


def autoencoder_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """TAESD's keys, with the scale and shift that give FLUX's latent format mean 0 and deviation 1."""
    out = {f"taesd_{part}.{key}": value for part in ("encoder", "decoder") for key, value in state[part].items()}
    scale = FLUX_SCALE * state["scale"]
    out["vae_scale"] = torch.tensor(scale)
    out["vae_shift"] = torch.tensor(FLUX_SHIFT - state["shift"] / scale)
    return out
