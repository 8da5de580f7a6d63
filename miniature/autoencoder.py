"""A TAESD-shaped autoencoder, with the plain `nn.Sequential` numbering of the files published by madebyollin/taesd."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

LATENT = 16


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
