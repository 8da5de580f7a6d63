"""The reference as the tower sees it: crop, padding, mask, tiles, and which tokens are kept.

Shapes: B pictures, C channels, S x T pixels of a view, Y x X of the drawing, N = r * c tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .image import View
from .mix import cat_tokens
from .resample import resample
from .tokens import Grid, Part, ReduxTokens

GAP = 8
DIMMED = 0.25
LINE = 0.12
DROPPED_COLOUR = (0.85, 0.20, 0.30)


def draw_views(
    views: list[View], tokens: ReduxTokens, picture: int = 0, columns: int | None = None, limit: int | None = None
) -> Tensor:
    """One picture's views side by side, [Y, X, 3] in 0..1, on the device of the views.

    What is read is clear, under a faint grid of tokens; what is not is dim and red. Of tiles, the whole picture stands
    left and the tiles right of it, in their places.

    Args:
        views: what `ReduxModel.views` gave.
        tokens: what was made of them, pooled or not; its grids are drawn.
        picture: which one of the batch.
        columns: of tiles; as many as rows by default.
        limit: the longest side; a larger drawing is scaled down. None = any.
    """
    covers = [None if tokens.coverage is None else cover_BN[picture] for _, cover_BN, _ in tokens.by_view()]
    drawn = [
        _draw(_read_pixels(view, picture), cover_N, grid)
        for view, cover_N, grid in zip(views, covers, tokens.grids, strict=True)
    ]
    whole, tiles = drawn[0], drawn[1:]
    if not tiles:
        return _limit(whole, limit)
    columns = columns or round(len(tiles) ** 0.5)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    wall = _stack([_stack(row, axis=1) for row in rows], axis=0)
    height = max(len(whole), len(wall))
    return _limit(_stack([_resize(whole, height), _resize(wall, height)], axis=1), limit)


def outline(views: list[View], full_count: int) -> ReduxTokens:
    """What `ReduxModel.encode_views` will make of the views, with nothing in it: enough to draw them before.

    Args:
        full_count: tokens of a whole reference, as the model has them.
    """
    parts = [
        ReduxTokens(
            torch.zeros(len(view.pixels_BCST), view.grid[0] * view.grid[1], 1, device=view.pixels_BCST.device),
            (Part((view.grid,), full_count),),
            view.coverage_BN,
        )
        for view in views
    ]
    return cat_tokens(parts, lambda _: (Part(tuple(view.grid for view in views), full_count),))


def _read_pixels(view: View, picture: int) -> Tensor:
    """[C, Y, X] in 0..1, without the pixels behind the last whole patch, which the tower never reads."""
    pixels_CST = view.pixels_BCST[picture]
    height, width = (side // cells * cells for side, cells in zip(pixels_CST.shape[1:], view.grid, strict=True))
    return (pixels_CST[:, :height, :width].float() + 1) / 2


def _draw(image_CYX: Tensor, cover_N: Tensor | None, grid: Grid) -> Tensor:
    device = image_CYX.device
    edges = [
        torch.arange(cells, device=device) * side // cells
        for cells, side in zip(grid, image_CYX.shape[1:], strict=True)
    ]
    if cover_N is not None:
        cover_1rc = cover_N.to(device, torch.float32).reshape(1, *grid)
        cover_1YX = interpolate(cover_1rc[None], size=image_CYX.shape[1:], mode="nearest-exact")[0]
        red_C11 = torch.tensor(DROPPED_COLOUR, device=device)[:, None, None]
        image_CYX = torch.lerp(image_CYX * DIMMED + red_C11 * (0.5 - DIMMED), image_CYX, cover_1YX)
    lines_YX = torch.zeros(image_CYX.shape[1:], device=device)
    lines_YX[edges[0]] = LINE
    lines_YX[:, edges[1]] = LINE
    return torch.lerp(image_CYX, torch.ones((), device=device), lines_YX).clamp(0, 1).movedim(0, -1)


def _limit(image_YXC: Tensor, limit: int | None) -> Tensor:
    longest = max(image_YXC.shape[:2])
    return image_YXC if limit is None or longest <= limit else _resize(image_YXC, len(image_YXC) * limit // longest)


def _resize(image_YXC: Tensor, height: int) -> Tensor:
    if len(image_YXC) == height:
        return image_YXC
    size = height, round(image_YXC.shape[1] * height / image_YXC.shape[0])
    image_1CYX = image_YXC.movedim(-1, 0)[None]
    return resample(image_1CYX, size, "bilinear")[0].movedim(0, -1)


def _stack(images: list[Tensor], axis: int) -> Tensor:
    gap = (0, 0, 0, GAP, 0, 0) if axis == 1 else (0, 0, 0, 0, 0, GAP)
    spaced = [pad(image, gap, value=1.0) for image in images[:-1]] + images[-1:]
    return torch.cat(spaced, dim=axis)
