"""Picture sizes of FLUX.1: an aspect ratio and an area become sides that are multiples of 16 pixels."""

from __future__ import annotations

import math

RATIOS = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "21:9": (1536, 640),
    "3:2": (1216, 832),
    "2:3": (832, 1216),
    "4:5": (896, 1088),
    "5:4": (1088, 896),
    "3:4": (896, 1152),
    "4:3": (1152, 896),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}
"""Pixels (width, height) at one megapixel, as Black Forest Labs' model at Replicate makes them."""

MULTIPLE = 16
MAX_SIDE = 8192
MEGAPIXEL = 1024 * 1024


def size_of_ratio(ratio: str, megapixels: float = 1.0) -> tuple[int, int]:
    """Width and height in pixels of one of RATIOS, multiples of 16.

    Raises:
        ValueError: this is no number of megapixels.
    """
    _check_area(megapixels)
    width, height = RATIOS[ratio]
    scale = math.sqrt(megapixels)
    return round_side(width * scale), round_side(height * scale)


def size_of_picture(width: int, height: int, megapixels: float = 1.0) -> tuple[int, int]:
    """The size with the aspect ratio of a picture of `width` x `height`, multiples of 16.

    Raises:
        ValueError: this is no number of megapixels.
    """
    _check_area(megapixels)
    scale = math.sqrt(megapixels * MEGAPIXEL / (width * height))
    return round_side(width * scale), round_side(height * scale)


def _check_area(megapixels: float) -> None:
    if not 0 < megapixels < math.inf:  # also true of NaN
        raise ValueError(f"The picture has {megapixels:g} megapixels; a number above 0, without end, is needed.")


def round_side(side: float) -> int:
    """The nearest multiple of 16 that FLUX can make, 16 to 8192 pixels."""
    return min(max(MULTIPLE * round(side / MULTIPLE), MULTIPLE), MAX_SIDE)
