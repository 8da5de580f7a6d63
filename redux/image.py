"""Pictures to pixel values for the tower, and how much of each patch is to be read.

Shapes: B pictures, Y x X pixels of the source, C channels, S x T pixels of a view, N = rows * columns tokens.

A *view* is what one pass of the tower sees: pixel values and, where part of it is not to be read, the coverage of each
patch. Every fit but "tiles" makes one view. The reference behaviour is "stretch": black-forest-labs/flux and diffusers
resize to a square with Pillow's bicubic filter, scale to -1..1, and never crop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from .config import SiglipConfig

MIN_SIDE = 4
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


def read_picture(images_BYXC: Tensor, mask_BYX: Tensor | None = None) -> Picture:
    """Check a batch and separate what is seen from how much of it is read.

    Args:
        images_BYXC: [B, Y, X, C] or [Y, X, C]; C is 1 (grey), 3 or 4 (alpha); floats in 0..1 (others are clamped), or
            uint8 / uint16. Alpha says how much of a pixel is read; behind it stands a neutral grey.
        mask_BYX: [B, Y, X], [1, Y, X] or [Y, X], 1 where the reference is read; any size, stretched to the pictures.

    Raises:
        TypeError, ValueError: one sentence that says what was found and what is needed.
    """
    images = _check_images(images_BYXC)
    rgb, alpha = images[:, :3], images[:, 3:] if images.shape[1] == 4 else None
    if rgb.shape[1] == 1:
        rgb = rgb.expand(-1, 3, -1, -1)
    if alpha is not None:
        rgb = rgb * alpha + NEUTRAL * (1 - alpha)
        alpha = None if bool((alpha == 1).all()) else alpha
    mask = None if mask_BYX is None else _check_mask(mask_BYX, images)
    if mask is not None and alpha is not None:
        mask = mask * alpha
    return Picture(rgb, alpha if mask is None else mask)


def fit_stretch(picture: Picture, config: SiglipConfig) -> View:
    """Resize to the tower's square, as Redux was trained."""
    return _view(picture, (config.image_size, config.image_size), config)


def fit_crop(picture: Picture, config: SiglipConfig, position: tuple[float, float] = (0.5, 0.5)) -> View:
    """Cut the largest square at `position` (down, across; 0..1) and resize it."""
    height, width = picture.size
    side = min(height, width)
    top, left = round((height - side) * position[0]), round((width - side) * position[1])
    return fit_stretch(picture.window(top, left, side, side), config)


def fit_pad(picture: Picture, config: SiglipConfig) -> View:
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
    return _view(padded, (config.image_size, config.image_size), config)


def fit_native(picture: Picture, config: SiglipConfig) -> View:
    """Keep the aspect ratio with at most as many tokens as the trained grid; positions are interpolated by the tower.

    The pixels that the trained size leaves over beyond its last patch are kept, so that a square picture gives
    exactly what `fit_stretch` gives.
    """
    rows, columns = native_grid(*picture.size, config.num_tokens)
    spare = config.image_size - config.grid[0] * config.patch_size
    return _view(picture, (rows * config.patch_size + spare, columns * config.patch_size + spare), config)


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
    """The whole picture, then rows x columns of tiles in reading order, each stretched to the tower's square."""
    height, width = picture.size
    rows, columns = min(tiles[0], height), min(tiles[1], width)
    tops = [height * row // rows for row in range(rows + 1)]
    lefts = [width * column // columns for column in range(columns + 1)]
    windows = [
        picture.window(top, left, bottom - top, right - left)
        for top, bottom in zip(tops, tops[1:], strict=False)
        for left, right in zip(lefts, lefts[1:], strict=False)
    ]
    return [fit_stretch(part, config) for part in (picture, *windows)]


FITS: dict[str, Callable[..., View | list[View]]] = {
    "stretch": fit_stretch,
    "crop": fit_crop,
    "pad": fit_pad,
    "native": fit_native,
    "tiles": fit_tiles,
}


def resize(images_BCYX: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, then clamped and rounded to 8 bits: what Pillow does to an 8-bit picture."""
    if tuple(images_BCYX.shape[-2:]) != size:
        images_BCYX = interpolate(images_BCYX, size=size, mode="bicubic", antialias=True, align_corners=False)
    return images_BCYX.clamp(0, 1).mul(255).round_().div_(255)


def resize_mask(mask_B1YX: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing, which never leaves 0..1."""
    if tuple(mask_B1YX.shape[-2:]) == size:
        return mask_B1YX
    return interpolate(mask_B1YX, size=size, mode="bilinear", antialias=True, align_corners=False)


def _view(picture: Picture, size: tuple[int, int], config: SiglipConfig) -> View:
    grid = size[0] // config.patch_size, size[1] // config.patch_size
    pixels_BCST = resize(picture.rgb_BCYX, size) * 2 - 1
    if picture.cover_B1YX is None:
        return View(pixels_BCST, None, grid)
    coverage_BN = avg_pool2d(resize_mask(picture.cover_B1YX, size), config.patch_size).flatten(1)
    return View(pixels_BCST, torch.where(coverage_BN < MIN_COVERAGE, 0, coverage_BN), grid)


def _check_images(images: Tensor) -> Tensor:
    """Any accepted layout and dtype -> fp32 [B, C, Y, X] in 0..1."""
    if not isinstance(images, Tensor):
        raise TypeError(f"The reference is a {type(images).__name__}; an image tensor [B, H, W, C] is needed.")
    shape = tuple(images.shape)
    images = images[None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        hint = "; it looks like [B, C, H, W]" if images.ndim == 4 and images.shape[1] in (1, 3, 4) else ""
        raise ValueError(f"The reference has shape {shape}{hint}; [B, H, W, C] with 1, 3 or 4 channels is needed.")
    batch, height, width, _ = images.shape
    if batch == 0:
        raise ValueError("The reference is an empty batch; at least one picture is needed.")
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"The reference is {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed.")
    if images.dtype in (torch.uint8, torch.uint16):
        images = images.to(torch.float32) / torch.iinfo(images.dtype).max
    elif not images.is_floating_point():
        raise ValueError(f"The reference has dtype {images.dtype}; floats in 0..1, uint8 or uint16 are needed.")
    images = images.to(torch.float32)
    if not bool(torch.isfinite(images).all()):
        count = int((~torch.isfinite(images)).sum())
        raise ValueError(f"The reference has {count} values that are NaN or infinite; a finite picture is needed.")
    return images.movedim(-1, 1).clamp(0, 1)


def _check_mask(mask: Tensor, images_BCYX: Tensor) -> Tensor:
    """A mask of any size -> fp32 [B, 1, Y, X] in 0..1 of the pictures' size."""
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3, 4):
        found = f"has shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"is a {type(mask).__name__}"
        raise ValueError(f"The mask {found}; a tensor [B, H, W] is needed.")
    batch, _, height, width = images_BCYX.shape
    mask_B1YX = mask.reshape(-1, 1, *mask.shape[-2:]).to(images_BCYX.device, torch.float32)
    if mask_B1YX.numel() == 0 or len(mask_B1YX) not in (1, batch):
        raise ValueError(
            f"The mask has shape {tuple(mask.shape)}; one mask, or one for each of {batch} pictures, is needed."
        )
    if not bool(torch.isfinite(mask_B1YX).all()):
        raise ValueError("The mask has values that are NaN or infinite; numbers from 0 to 1 are needed.")
    return resize_mask(mask_B1YX.clamp(0, 1), (height, width)).expand(batch, -1, -1, -1)
