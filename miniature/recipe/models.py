"""A FLUX transformer of any size, with the parameter names of the files published by black-forest-labs/flux.

Shapes: B images, C channels, Y x X latent pixels, I image tokens, T context tokens, L = T + I, D width, H heads,
K = 128 head size, R = K / 2, W context width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, rms_norm, scaled_dot_product_attention, silu

# Added to the logits (or bool, True = attend); or what does attention instead, from q, k and v [B, H, L, K].
Bias = Tensor | Callable[[Tensor, Tensor, Tensor], Tensor] | None

HEAD = 128
AXES = (16, 56, 56)  # of a head: unused, row, column
LATENT = 16
PATCH = 2


@dataclass(frozen=True)
class FluxConfig:
    hidden: int = 384
    double_blocks: int = 2
    single_blocks: int = 4
    context: int = 384

    @property
    def heads(self) -> int:
        return self.hidden // HEAD


def rope_table(rows: int, columns: int, context: int, device: torch.device | str) -> Tensor:
    """Cosines and sines of the rotations, [2, T + rows * columns, K / 2] in fp32; the context stands at position 0."""
    grid = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    places = torch.stack((torch.zeros_like(grid[0]), *grid), -1).reshape(-1, 3)
    places_L3 = torch.cat((places.new_zeros(context, 3), places)).double()
    parts = []
    for axis, size in enumerate(AXES):
        speed = 10000.0 ** -(torch.arange(0, size, 2, device=device, dtype=torch.float64) / size)
        parts.append(places_L3[:, axis, None] * speed)
    angles = torch.cat(parts, -1)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x_BHLK: Tensor, table_2LR: Tensor) -> Tensor:
    """Rotary positions on neighbouring pairs of channels."""
    even, odd = x_BHLK.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table_2LR.unbind(0)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x_BHLK.dtype)


def embed_time(time_B: Tensor, size: int = 256) -> Tensor:
    """Sinusoids of 1000 t, cosines first: [B, size] in fp32."""
    half = size // 2
    speed = torch.exp(-math.log(10000.0) * torch.arange(half, device=time_B.device, dtype=torch.float32) / half)
    angle = 1000.0 * time_B.float()[:, None] * speed
    return torch.cat((angle.cos(), angle.sin()), -1)


def shifted_norm(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    return layer_norm(x_BLD, x_BLD.shape[-1:], eps=1e-6) * (1 + scale_B1D) + shift_B1D


def attend(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, bias: Bias) -> Tensor:
    if callable(bias):
        return bias(q_BHLK, k_BHLK, v_BHLK)
    return scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, bias)


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, x.shape[-1:], self.scale.to(x.dtype), 1e-6)


class QKNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = RMSNorm(HEAD), RMSNorm(HEAD)

    def split(self, qkv_BLE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, 3 * H * K] -> normed queries, normed keys and values, each [B, H, L, K]."""
        q, k, v = qkv_BLE.unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        return self.query_norm(q), self.key_norm(k), v


class Modulation(nn.Module):
    def __init__(self, hidden: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.lin = nn.Linear(hidden, parts * hidden)

    def forward(self, vector_BD: Tensor) -> tuple[Tensor, ...]:
        return self.lin(silu(vector_BD))[:, None].chunk(self.parts, -1)


class SelfAttention(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.norm = QKNorm()
        self.proj = nn.Linear(hidden, hidden)


def mlp(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU("tanh"), nn.Linear(4 * hidden, hidden))


class DoubleBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.img_mod, self.txt_mod = Modulation(hidden, 6), Modulation(hidden, 6)
        self.img_attn, self.txt_attn = SelfAttention(hidden), SelfAttention(hidden)
        self.img_mlp, self.txt_mlp = mlp(hidden), mlp(hidden)

    def forward(
        self, img_BID: Tensor, txt_BTD: Tensor, vector_BD: Tensor, table_2LR: Tensor, bias: Bias
    ) -> tuple[Tensor, Tensor]:
        img, txt = self.img_mod(vector_BD), self.txt_mod(vector_BD)
        img_qkv = self.img_attn.norm.split(self.img_attn.qkv(shifted_norm(img_BID, img[0], img[1])))
        txt_qkv = self.txt_attn.norm.split(self.txt_attn.qkv(shifted_norm(txt_BTD, txt[0], txt[1])))
        q, k, v = (torch.cat(pair, 2) for pair in zip(txt_qkv, img_qkv, strict=True))
        out = attend(rotate(q, table_2LR), rotate(k, table_2LR), v, bias)
        out_BLD = out.transpose(1, 2).flatten(2)
        count = txt_BTD.shape[1]
        img_BID = img_BID + img[2] * self.img_attn.proj(out_BLD[:, count:])
        txt_BTD = txt_BTD + txt[2] * self.txt_attn.proj(out_BLD[:, :count])
        img_BID = img_BID + img[5] * self.img_mlp(shifted_norm(img_BID, img[3], img[4]))
        return img_BID, txt_BTD + txt[5] * self.txt_mlp(shifted_norm(txt_BTD, txt[3], txt[4]))


class SingleBlock(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(hidden, 7 * hidden)
        self.linear2 = nn.Linear(5 * hidden, hidden)
        self.norm = QKNorm()
        self.modulation = Modulation(hidden, 3)

    def forward(self, x_BLD: Tensor, vector_BD: Tensor, table_2LR: Tensor, bias: Bias) -> Tensor:
        shift, scale, gate = self.modulation(vector_BD)
        hidden = x_BLD.shape[-1]
        qkv, inner = self.linear1(shifted_norm(x_BLD, shift, scale)).split((3 * hidden, 4 * hidden), -1)
        q, k, v = self.norm.split(qkv)
        out = attend(rotate(q, table_2LR), rotate(k, table_2LR), v, bias)
        joined = torch.cat((out.transpose(1, 2).flatten(2), gelu(inner, approximate="tanh")), -1)
        return x_BLD + gate * self.linear2(joined)


class TimeEmbedder(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(256, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(silu(self.in_layer(x)))


class LastLayer(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, LATENT * PATCH * PATCH)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x_BID: Tensor, vector_BD: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vector_BD)[:, None].chunk(2, -1)
        return self.linear(shifted_norm(x_BID, shift, scale))


class Flux(nn.Module):
    """Velocity of a latent. No pooled text vector and no guidance embedding, so real CFG is used."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.config = config
        self.img_in = nn.Linear(LATENT * PATCH * PATCH, hidden)
        self.txt_in = nn.Linear(config.context, hidden)
        self.time_in = TimeEmbedder(hidden)
        self.double_blocks = nn.ModuleList(DoubleBlock(hidden) for _ in range(config.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(hidden) for _ in range(config.single_blocks))
        self.final_layer = LastLayer(hidden)

    def init_weights(self) -> None:
        """Xavier for matrices; zeros where a block joins the stream, so that it starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        gates = [module.lin for module in self.modules() if isinstance(module, Modulation)]
        last = self.final_layer
        for weight in (
            *(gate.weight for gate in gates),
            last.linear.weight,
            last.adaLN_modulation.get_parameter("1.weight"),
        ):
            nn.init.zeros_(weight)

    def forward(self, x_BCYX: Tensor, time_B: Tensor, context_BTW: Tensor, bias: Bias = None) -> Tensor:
        """Noisy latents, time (1 = noise) and context -> velocity noise - latent, in the shape of the latents.

        bias: broadcasts to [B, H, L, L] in the order context, image; or a function in the place of attention.
        """
        rows, columns = x_BCYX.shape[-2] // PATCH, x_BCYX.shape[-1] // PATCH
        patches = x_BCYX.unflatten(2, (rows, PATCH)).unflatten(4, (columns, PATCH))
        img = self.img_in(patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2))
        vector_BD = self.time_in(embed_time(time_B).to(img.dtype))
        txt = self.txt_in(context_BTW)
        count = txt.shape[1]
        table_2LR = rope_table(rows, columns, count, img.device)
        for block in self.double_blocks:
            img, txt = block(img, txt, vector_BD, table_2LR, bias)
        x_BLD = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            x_BLD = block(x_BLD, vector_BD, table_2LR, bias)
        out = self.final_layer(x_BLD[:, count:], vector_BD).unflatten(1, (rows, columns))
        return out.unflatten(-1, (LATENT, PATCH, PATCH)).permute(0, 3, 1, 4, 2, 5).reshape(x_BCYX.shape)
