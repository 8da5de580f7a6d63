"""The reference as the tower sees it: crop, padding, mask, tiles, and which tokens are kept.

Shapes: B pictures, S x T pixels of a view, Y x X of the drawing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from .image import View

GAP = 8
DIMMED = 0.25
LINE = 0.12
DROPPED_COLOUR = (0.85, 0.20, 0.30)


def draw_views(views: list[View], picture: int = 0, columns: int | None = None) -> Tensor:
    """One picture's views side by side, [Y, X, 3] in 0..1; `columns` of tiles, a square number of them by default.

    Patches that are read are clear with a faint grid of tokens; dropped ones are dim and red. Of tiles, the whole
    picture stands left and the tiles right of it, in their places.
    """
    drawn = [_draw(view, picture) for view in views]
    whole, tiles = drawn[0], drawn[1:]
    if not tiles:
        return whole
    columns = columns or round(len(tiles) ** 0.5)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    wall = _stack([_stack(row, axis=1) for row in rows], axis=0)
    height = max(len(whole), len(wall))
    return _stack([_resize(whole, height), _resize(wall, height)], axis=1)


def _draw(view: View, picture: int) -> Tensor:
    rows, columns = view.grid
    pixels_CST = view.pixels_BCST[picture].float().cpu()
    height, width = pixels_CST.shape[-2] // rows * rows, pixels_CST.shape[-1] // columns * columns
    patch_y, patch_x = pixels_CST.shape[-2] // rows, pixels_CST.shape[-1] // columns
    image_CYX = (pixels_CST[:, : rows * patch_y, : columns * patch_x] + 1) / 2
    if view.coverage_BN is not None:
        cover_1yx = view.coverage_BN[picture].float().cpu().reshape(1, rows, columns)
        cover_1YX = cover_1yx.repeat_interleave(patch_y, 1).repeat_interleave(patch_x, 2)
        red_C11 = torch.tensor(DROPPED_COLOUR)[:, None, None]
        hidden = image_CYX * DIMMED + red_C11 * (0.5 - DIMMED)
        image_CYX = torch.lerp(hidden, image_CYX, cover_1YX)
    image_CYX[:, ::patch_y] = torch.lerp(image_CYX[:, ::patch_y], torch.ones(()), LINE)
    image_CYX[:, :, ::patch_x] = torch.lerp(image_CYX[:, :, ::patch_x], torch.ones(()), LINE)
    return image_CYX[:, :height, :width].movedim(0, -1)


def _resize(image_YXC: Tensor, height: int) -> Tensor:
    width = round(image_YXC.shape[1] * height / image_YXC.shape[0])
    return interpolate(image_YXC.movedim(-1, 0)[None], size=(height, width), mode="area")[0].movedim(0, -1)


def _stack(images: list[Tensor], axis: int) -> Tensor:
    gap = (0, 0, 0, GAP, 0, 0) if axis == 1 else (0, 0, 0, 0, 0, GAP)
    spaced = [pad(image, gap, value=1.0) for image in images[:-1]] + images[-1:]
    return torch.cat(spaced, dim=axis)
