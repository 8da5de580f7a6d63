"""A region of the picture as weights of image tokens.

Shapes: R masks, Y x X pixels, r x c tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def region_on_grid(region_RYX: Tensor, latent: tuple[int, int], patch: int) -> Tensor:
    """The mean of the region under each token: exact areas, whatever the sizes are.

    The region is stretched over the latent. A model pads a latent to whole patches, so the last token of a row may
    show less than a patch; it takes the mean of what it shows.

    Args:
        region_RYX: weights, any size.
        latent: height and width of the latent.
        patch: side of a token in latent pixels.

    Returns:
        [R, r, c] in fp32 on the CPU, r and c being the latent's sides over the patch, rounded up.
    """
    values = region_RYX.to("cpu", torch.float64)
    for axis in sorted((-1, -2), key=lambda axis: latent[axis] / region_RYX.shape[axis]):  # what shrinks most first
        values = _means(values.movedim(axis, -1), latent[axis], patch).movedim(-1, axis)
    return values.float()


def cut_region(region_RYX: Tensor, canvas: tuple[int, int], rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """The region of a part of the picture: means under single latents, which `region_on_grid` joins exactly.

    Args:
        region_RYX: weights over the whole picture, any size.
        canvas: height and width of the whole picture in latents.
        rows, columns: latents of the canvas that the part consists of, in its order.

    Returns:
        [R, rows, columns] in fp32 on the CPU.
    """
    return region_on_grid(region_RYX, canvas, 1)[:, list(rows)][:, :, list(columns)]


def _means(values_YX: Tensor, side: int, patch: int) -> Tensor:
    """[..., pixels] -> [..., tokens]: the mean under each token along one axis, from the sums up to its two edges."""
    pixels = values_YX.shape[-1]
    edges_c = torch.arange(0, side + patch, patch, dtype=torch.float64).clamp(max=side) * (pixels / side)
    sums_YX = torch.nn.functional.pad(values_YX.cumsum(-1), (1, 0))
    pixel_c = edges_c.long().clamp(max=pixels - 1)
    sums_Yc = torch.lerp(sums_YX[..., pixel_c], sums_YX[..., pixel_c + 1], edges_c - pixel_c)
    return sums_Yc.diff(dim=-1) / edges_c.diff()
