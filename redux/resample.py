"""Pictures and masks in other sizes, in memory of about what goes in plus what comes out, whatever their aspect.

Shapes: B pictures, C channels, Y x X pixels, y x x of the result.

A resampling in two passes holds the picture in its half-way size in between. The wrong pass first may make that far
larger than both: a picture 4 wide and 500,000 high that becomes a square of 384 would be 384 x 500,000 there.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

ANTIALIASED = ("cpu", "cuda")  # the devices on which torch has the antialiased kernels


def resample(values_BCYX: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """`interpolate` with antialiasing, on any device: on the CPU where the kernel is absent.

    A single column is doubled for it, since torch mistakes its strides and returns the first pixel everywhere.
    """
    device = values_BCYX.device
    if device.type not in ANTIALIASED:
        values_BCYX = values_BCYX.cpu()
    wide = size
    if values_BCYX.shape[-1] == 1:
        values_BCYX, wide = values_BCYX.expand(-1, -1, -1, 2), (size[0], max(2, size[1]))
    result = interpolate(values_BCYX, size=wide, mode=mode, antialias=True, align_corners=False)
    return result[..., : size[1]].to(device)


def resize(images_BCYX: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's bicubic on 8-bit pictures: antialiased, clamped and rounded to 8 bits after each of the two passes.

    Which pass goes first is what Pillow 13 does: down where more rows are to go than twice the columns that are to go
    (found by comparing 500 random pairs of sizes with it); earlier ones always go across first. Either way the picture
    in between is no larger than the input or the output.
    """
    (rows, columns), (rows_to, columns_to) = images_BCYX.shape[-2:], size
    down_first = rows - rows_to > max(0, 2 * (columns - columns_to))
    for step in ((rows_to, columns) if down_first else (rows, columns_to), size):
        if tuple(images_BCYX.shape[-2:]) != step:
            images_BCYX = resample(images_BCYX, step, "bicubic").clamp_(0, 1).mul_(255).round_().div_(255)
    return images_BCYX


def resize_mask(mask_B1YX: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing, which never leaves 0..1. The pass that leaves less goes first."""
    (rows, columns), (rows_to, columns_to) = mask_B1YX.shape[-2:], size
    down_first = rows_to * columns < rows * columns_to
    for step in ((rows_to, columns) if down_first else (rows, columns_to), size):
        if tuple(mask_B1YX.shape[-2:]) != step:
            mask_B1YX = resample(mask_B1YX, step, "bilinear")
    return mask_B1YX
