"""Fewer tokens from a grid of them: the mean by area, weighted with how much of each is to be read.

Shapes: B pictures, N tokens, D text width, R x C grid; r x c pooled grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]  # rows and columns


def pool_view(tokens_BND: Tensor, cover_BN: Tensor, grid: Grid, small: Grid) -> tuple[Tensor, Tensor]:
    """One view pooled to a smaller grid: tokens [B, r * c, D] and coverage [B, r * c]."""
    if small == grid:
        return tokens_BND, cover_BN
    down_rR = overlap(grid[0], small[0], tokens_BND.device)
    across_cC = overlap(grid[1], small[1], tokens_BND.device)

    def average(values_BNX: Tensor) -> Tensor:
        values_BRCX = values_BNX.unflatten(1, grid)
        return torch.einsum("rR,cC,bRCx->brcx", down_rR, across_cC, values_BRCX).flatten(1, 2)

    pooled_cover = average(cover_BN[..., None])
    pooled = average(tokens_BND.float() * cover_BN[..., None]) / pooled_cover.clamp(min=1e-12)
    return pooled.to(tokens_BND.dtype), pooled_cover[..., 0].clamp(max=1)  # sums exceed it by the last bit


def within(grid: Grid, side: int) -> Grid:
    """A grid of the same aspect whose longer side is at most `side`."""
    longest = max(side, *grid)
    return max(1, round(grid[0] * side / longest)), max(1, round(grid[1] * side / longest))


def overlap(length: int, small: int, device: torch.device | str | None = None) -> Tensor:
    """[small, length]: which share of each of `small` equal intervals is covered by each of `length` equal ones.

    Counted in whole steps of 1 / (small * length), so that intervals that only touch share exactly nothing.
    """
    edges_s, edges_L = torch.arange(small + 1) * length, torch.arange(length + 1) * small
    right = torch.minimum(edges_s[1:, None], edges_L[None, 1:])
    left = torch.maximum(edges_s[:-1, None], edges_L[None, :-1])
    return ((right - left).clamp(min=0) / length).to(device, torch.float32)
