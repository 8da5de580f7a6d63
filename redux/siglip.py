"""SigLIP vision tower: pictures to a grid of tokens.

Shapes: B pictures, C channels, Y x X pixels, N = rows * columns tokens, D width, H heads, K = D / H.

A plain pre-norm ViT (Dosovitskiy et al. 2021) as SigLIP uses it (Zhai et al. 2023, google-research/big_vision):
learned positions, no class token, tanh-approximate GELU, a final LayerNorm. The attention-pooling head that SigLIP
trains on top is not part of it, since Redux reads the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .config import SiglipConfig
from .resample import resample


class Attention(nn.Module):
    """Self-attention with one fused matrix for queries, keys and values."""

    def __init__(self, config: SiglipConfig, operations: Any, **place: Any) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = operations.Linear(config.hidden_size, 3 * config.hidden_size, **place)
        self.out = operations.Linear(config.hidden_size, config.hidden_size, **place)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv_3BHNK = self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out_BHNK = scaled_dot_product_attention(*qkv_3BHNK.unbind(0))
        return self.out(out_BHNK.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config: SiglipConfig, operations: Any, **place: Any) -> None:
        super().__init__()
        self.up = operations.Linear(config.hidden_size, config.mlp_size, **place)
        self.down = operations.Linear(config.mlp_size, config.hidden_size, **place)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.down(gelu(self.up(x_BND), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: SiglipConfig, operations: Any, **place: Any) -> None:
        super().__init__()
        self.norm1 = operations.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, **place)
        self.attention = Attention(config, operations, **place)
        self.norm2 = operations.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, **place)
        self.mlp = Mlp(config, operations, **place)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attention(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class SiglipVisionTower(nn.Module):
    """Pixel values to tokens after the final norm (transformers calls them `last_hidden_state`).

    `operations` supplies Linear, LayerNorm, Conv2d and Embedding, so that a host may cast or offload the weights.
    The computation runs in the dtype of the pixel values, whatever the dtype of the weights is under such layers.
    """

    def __init__(
        self,
        config: SiglipConfig,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        size, patch = config.hidden_size, config.patch_size
        self.config = config
        self.patch = operations.Conv2d(3, size, kernel_size=patch, stride=patch, **place)
        self.position = operations.Embedding(config.num_tokens, size, **place)
        self.blocks = nn.ModuleList(Block(config, operations, **place) for _ in range(config.num_layers))
        self.norm = operations.LayerNorm(size, eps=config.layer_norm_eps, **place)

    def forward(self, pixels_BCYX: Tensor) -> Tensor:
        """Pixel values [B, 3, Y, X] in -1..1 -> tokens [B, N, D] in reading order.

        Any size of at least one patch is accepted; a grid other than the trained one gets interpolated positions.
        """
        patches_BDyx = self.patch(pixels_BCYX)
        rows, columns = patches_BDyx.shape[-2:]
        x_BND = patches_BDyx.flatten(2).transpose(1, 2)
        x_BND = x_BND + self.positions((rows, columns), x_BND.device).to(x_BND.dtype)
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.norm(x_BND)

    def positions(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Position table [rows * columns, D] for a grid; other grids than the trained one are resampled in fp32.

        Bicubic with antialiasing, as timm resamples a ViT's table for another resolution.
        """
        table_ND = self.position(torch.arange(self.config.num_tokens, device=device))
        if grid == self.config.grid:
            return table_ND
        table_1Dyx = table_ND.float().unflatten(0, self.config.grid).permute(2, 0, 1)[None]
        return resample(table_1Dyx, grid, "bicubic")[0].flatten(1).T
