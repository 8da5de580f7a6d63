"""Pictures to pixel values for the tower, and how much of each patch is to be read.

Shapes: B pictures, Y x X pixels of the source, C channels, S x T pixels of a view, N = rows * columns tokens.

A *view* is what one pass of the tower sees: pixel values and, where part of it is not to be read, the coverage of each
patch. Every fit but "tiles" makes one view. The reference behaviour is "stretch": black-forest-labs/flux and diffusers
resize to a square with Pillow's bicubic filter, scale to -1..1, and never crop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .config import SiglipConfig
from .resample import resize, resize_mask
from .typed import short

MIN_CUT = 4  # pixels a side
MIN_COVERAGE = 1 / 512  # below this share of a patch (a third of a pixel of 196) a token is not worth its place
NEUTRAL = 0.5  # what stands behind alpha and in padding: zero in the tower's input space

POSITIONS: dict[str, tuple[float, float]] = {
    "center": (0.5, 0.5),
    "top": (0.0, 0.5),
    "bottom": (1.0, 0.5),
    "left": (0.5, 0.0),
    "right": (0.5, 1.0),
}


@dataclass(frozen=True)
class View:
    """pixels_BCST in -1..1; coverage_BN in 0..1, or None when everything is read; grid = (rows, columns)."""

    pixels_BCST: Tensor
    coverage_BN: Tensor | None
    grid: tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """Colours and coverage of a batch before it is fitted. Colours are 0..1, coverage too, or None for all."""

    rgb_BCYX: Tensor
    cover_B1YX: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.rgb_BCYX.shape[-2:]
        return height, width

    def window(self, top: int, left: int, height: int, width: int) -> Picture:
        cut = (..., slice(top, top + height), slice(left, left + width))
        return Picture(self.rgb_BCYX[cut], None if self.cover_B1YX is None else self.cover_B1YX[cut])


def crop_to_cover(picture: Picture, margin: float) -> list[Picture]:
    """Cut each picture of a batch around what is read of it.

    The cut is a square where the picture has room for one, so that nothing is distorted afterwards, and otherwise as
    near to it as fits in.

    Args:
        margin: room on each side, as a share of the longer side of what is read.

    Raises:
        ValueError: nothing is read, there is no mask and no alpha, or the margin is below 0 or not finite.
    """
    if not 0 <= margin < math.inf:
        raise ValueError(f"The margin is {margin:g}; a share of the longer side, from 0 up, is needed.")
    if picture.cover_B1YX is None:
        raise ValueError("There is no mask and no alpha to crop to; connect a mask or switch crop_to_mask off.")
    pairs = zip(picture.rgb_BCYX.split(1), picture.cover_B1YX.split(1), strict=True)
    return [_crop_one(Picture(*pair), margin) for pair in pairs]


def _crop_one(picture: Picture, margin: float) -> Picture:
    assert picture.cover_B1YX is not None
    read_YX = picture.cover_B1YX[0, 0] > MIN_COVERAGE
    rows, columns = read_YX.any(1).nonzero().flatten().tolist(), read_YX.any(0).nonzero().flatten().tolist()
    if not rows:
        raise ValueError("The mask or alpha is empty; paint white where the reference is to be read, or invert it.")
    side = max(MIN_CUT, math.ceil(max(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) * (1 + 2 * margin)))
    box = [_interval(found, side, length) for found, length in zip((rows, columns), picture.size, strict=True)]
    return picture.window(box[0][0], box[1][0], box[0][1], box[1][1])


def _interval(found: list[int], side: int, length: int) -> tuple[int, int]:
    """Start and length of an interval of `side` around the indices found, moved and cut to 0..length."""
    size = min(side, length)
    start = (found[0] + found[-1] + 1 - size) // 2
    return min(max(start, 0), length - size), size


def fit_stretch(picture: Picture, config: SiglipConfig) -> list[View]:
    """Resize to the tower's square, as Redux was trained."""
    return [_view(picture, (config.image_size, config.image_size), config)]


def fit_crop(picture: Picture, config: SiglipConfig, position: str | tuple[float, float] = "center") -> list[View]:
    """Cut the largest square at `position` (down, across; 0..1, or a name of `POSITIONS`) and resize it."""
    position = POSITIONS.get(position, position) if isinstance(position, str) else position
    if isinstance(position, str) or not _is_pair(position) or not all(0 <= share <= 1 for share in position):
        raise ValueError(
            f"There is no position {short(repr(position))}; two numbers in 0..1, or {', '.join(POSITIONS)}, is needed."
        )
    height, width = picture.size
    side = min(height, width)
    top, left = round((height - side) * position[0]), round((width - side) * position[1])
    return fit_stretch(picture.window(top, left, side, side), config)


def fit_pad(picture: Picture, config: SiglipConfig) -> list[View]:
    """Resize the longer side and centre the picture; tokens that see only padding have no coverage."""
    height, width = picture.size
    scale = config.image_size / max(height, width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    spare = config.image_size - inner[0], config.image_size - inner[1]
    border = (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2)
    cover = picture.cover_B1YX
    if cover is None:
        cover = picture.rgb_BCYX.new_ones(1, 1, height, width).expand(len(picture.rgb_BCYX), -1, -1, -1)
    padded = Picture(
        pad(resize(picture.rgb_BCYX, inner), border, value=NEUTRAL), pad(resize_mask(cover, inner), border)
    )
    return fit_stretch(padded, config)


def fit_native(picture: Picture, config: SiglipConfig) -> list[View]:
    """Keep the aspect ratio with at most as many tokens as the trained grid; positions are interpolated by the tower.

    The pixels that the trained size leaves over beyond its last patch are kept, so that a square picture gives
    exactly what `fit_stretch` gives.
    """
    rows, columns = native_grid(*picture.size, config.num_tokens)
    spare = config.image_size - config.grid[0] * config.patch_size
    return [_view(picture, (rows * config.patch_size + spare, columns * config.patch_size + spare), config)]


def native_grid(height: int, width: int, budget: int) -> tuple[int, int]:
    """The grid of at most `budget` tokens whose aspect is nearest to height : width."""
    rows = min(budget, max(1, round(math.sqrt(budget * height / width))))
    options = ((r, max(1, min(budget // r, round(r * width / height)))) for r in {max(1, rows - 1), rows, rows + 1})
    fitting = [(r, c) for r, c in options if r * c <= budget]

    def badness(grid: tuple[int, int]) -> float:
        aspect = abs(math.log(grid[0] / grid[1] * width / height))
        return aspect + abs(math.log(grid[0] * grid[1] / budget))

    return min(fitting, key=badness)


def fit_tiles(picture: Picture, config: SiglipConfig, tiles: tuple[int, int] = (2, 2)) -> list[View]:
    """The whole picture, then rows x columns of tiles in reading order, each stretched to the tower's square.

    Tiles of a picture with fewer pixels than tiles along a side show a pixel each, some of them the same one.
    """
    if not _is_pair(tiles) or not all(isinstance(count, int) and count >= 1 for count in tiles):
        raise ValueError(f"The tiles are {short(repr(tiles))}; two whole numbers from 1 up (rows, columns) are needed.")
    height, width = picture.size
    windows = [
        picture.window(top, left, tall, wide)
        for top, tall in _intervals(height, tiles[0])
        for left, wide in _intervals(width, tiles[1])
    ]
    return [view for part in (picture, *windows) for view in fit_stretch(part, config)]


def _is_pair(value: object) -> bool:
    return isinstance(value, Sized) and len(value) == 2


def _intervals(length: int, count: int) -> list[tuple[int, int]]:
    """Start and length of `count` intervals that cover 0..length, none of them empty."""
    edges = [length * index // count for index in range(count + 1)]
    return [(start, max(1, stop - start)) for start, stop in zip(edges, edges[1:], strict=False)]


FITS: dict[str, Callable[..., list[View]]] = {
    "stretch": fit_stretch,
    "crop": fit_crop,
    "pad": fit_pad,
    "native": fit_native,
    "tiles": fit_tiles,
}


def _view(picture: Picture, size: tuple[int, int], config: SiglipConfig) -> View:
    grid = size[0] // config.patch_size, size[1] // config.patch_size
    pixels_BCST = resize(picture.rgb_BCYX, size) * 2 - 1
    if picture.cover_B1YX is None:
        return View(pixels_BCST, None, grid)
    coverage_BN = avg_pool2d(resize_mask(picture.cover_B1YX, size), config.patch_size).flatten(1)
    coverage_BN = coverage_BN.clamp(max=1)  # sums of fp32 weights can exceed it by the last bit
    return View(pixels_BCST, torch.where(coverage_BN < MIN_COVERAGE, 0, coverage_BN), grid)
