"""A region of the picture as weights of image tokens.

Shapes: R masks, Y x X pixels, r x c tokens.
"""

from __future__ import annotations

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
    region_RYX = region_RYX.to("cpu", torch.float32)
    rows_rY, columns_cX = (
        _overlaps(side, patch, pixels) for side, pixels in zip(latent, region_RYX.shape[1:], strict=True)
    )
    return rows_rY @ region_RYX @ columns_cX.mT


def _overlaps(side: int, patch: int, pixels: int) -> Tensor:
    """[tokens, pixels]: the share of each pixel in each token along one axis; rows sum to one."""
    edges = torch.arange(0, side + patch, patch, dtype=torch.float64).clamp(max=side) * (pixels / side)
    starts, stops = edges[:-1, None], edges[1:, None]
    pixel = torch.arange(pixels, dtype=torch.float64)
    overlap = torch.minimum(stops, pixel + 1) - torch.maximum(starts, pixel)
    return (overlap.clamp(min=0) / (stops - starts)).float()
