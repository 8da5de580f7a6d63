"""What Python users hold - tensors, numpy arrays, Pillow pictures, lists of them - as batches of pictures.

Shapes: B pictures, M masks, Y x X pixels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .image import NEUTRAL, Picture, View
from .resample import resize_mask

Pixels: TypeAlias = Tensor | np.ndarray | Image.Image
Pictures: TypeAlias = Pixels | Sequence[Pixels]

MAX_MEAN = 2.0  # floats that are brighter on average are not in 0..1 but, most likely, in 0..255
PIECE = 2**22  # source pixels that are prepared at a time, about 150 MB of GPU memory


def read_pictures(images: Pictures, mask: Pictures | None, device: torch.device) -> Iterator[Picture]:
    """One batch, or a list of pictures that may differ in size, checked and separated into colours and coverage.

    Args:
        images: as `as_batch` takes them, or a list of such.
        mask: one for all pictures, or as many as there are pictures; or a list with one for each item of `images`.
        device: the work is done there if it is a CUDA device, since that is faster; otherwise where the pictures are.

    Raises:
        TypeError, ValueError: one sentence that says what was found and what is needed.
    """
    items = list(images) if isinstance(images, (list, tuple)) else [images]
    if not items:
        raise ValueError("The reference is an empty list; at least one picture is needed.")
    batches = [as_batch(item) for item in items]
    masks = _share_masks(mask, [len(batch) for batch in batches])
    for batch, batch_mask in zip(batches, masks, strict=True):
        for piece, piece_mask in _pieces(batch, batch_mask):
            yield read_picture(piece.to(device) if device.type == "cuda" else piece, piece_mask)


def read_picture(images_BYXC: Tensor, mask_BYX: Tensor | None = None) -> Picture:
    """Check a batch and separate what is seen from how much of it is read.

    Args:
        images_BYXC: C is 1 (grey), 3 or 4 (alpha); floats in 0..1 (others are clamped), or uint8 / uint16. Alpha says
            how much of a pixel is read; behind it stands a neutral grey.
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


def as_batch(images: Any) -> Tensor:
    """A tensor [B, Y, X, C], of the dtype and range that were given.

    Args:
        images: tensor or numpy array [B, Y, X, C], [Y, X, C] or [Y, X]; or a Pillow picture of any mode, which is
            turned upright as its EXIF data says.

    Raises:
        TypeError: it is none of these.
        ValueError: it has another number of dimensions, or no values.
    """
    found, images = type(images).__name__, _as_tensor(images)
    if not isinstance(images, Tensor):
        raise TypeError(f"The reference is a {found}; a tensor, a numpy array or a Pillow picture is needed.")
    if images.ndim not in (2, 3, 4):
        raise ValueError(f"The reference has shape {tuple(images.shape)}; [B, H, W, C] is needed.")
    if images.is_meta or images.layout != torch.strided:
        kind = "a meta tensor" if images.is_meta else f"a tensor of layout {images.layout}"
        raise ValueError(f"The reference is {kind}; a dense one with values is needed.")
    images = images[..., None] if images.ndim == 2 else images
    return images[None] if images.ndim == 3 else images


def cat_pictures(views: Sequence[View]) -> View:
    """The same view of several batches as a view of one.

    Raises:
        ValueError: their grids differ.
    """
    first, *others = views
    if not others:
        return first
    for other in others:
        if other.grid != first.grid:
            raise ValueError(
                f"The pictures give grids of {first.grid[0]} x {first.grid[1]} and {other.grid[0]} x {other.grid[1]} "
                "tokens; pictures of one shape are needed, or another fit."
            )
    coverage = None
    if any(view.coverage_BN is not None for view in views):
        whole = [view.pixels_BCST.new_ones(len(view.pixels_BCST), view.grid[0] * view.grid[1]) for view in views]
        coverage = torch.cat(
            [one if view.coverage_BN is None else view.coverage_BN for view, one in zip(views, whole, strict=True)]
        )
    return View(torch.cat([view.pixels_BCST for view in views]), coverage, first.grid)


def _share_masks(mask: Pictures | None, counts: list[int]) -> list[Tensor | None]:
    """The masks for each batch; how many a batch may have is checked where it is read."""
    if mask is None:
        return [None] * len(counts)
    if isinstance(mask, (list, tuple)):
        if len(mask) != len(counts):
            raise ValueError(f"There are {len(mask)} masks for {len(counts)} pictures; one for each is needed.")
        return [_as_mask(item) for item in mask]
    whole = _as_mask(mask)
    if isinstance(whole, Tensor) and whole.ndim > 2 and len(counts) > 1 and len(whole) == sum(counts):
        return list(whole.split(counts))
    return [whole] * len(counts)


def _pieces(images: Tensor, mask: Any) -> Iterator[tuple[Tensor, Any]]:
    """A batch and its masks in pieces of about `PIECE` pixels; masks that do not fit are left for `read_picture`."""
    each = isinstance(mask, Tensor) and mask.ndim > 2 and len(mask) > 1
    if len(images) < 2 or (each and len(mask) != len(images)):
        yield images, mask
        return
    step = max(1, PIECE // max(1, images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        yield images[part], mask[part] if each else mask


def _as_mask(mask: Any) -> Any:
    colour = isinstance(mask, Image.Image) and not mask.mode.startswith(("I", "F"))
    return _as_tensor(mask.convert("L") if colour else mask)


def _as_tensor(pixels: Any) -> Any:
    """Arrays and Pillow pictures as tensors of their own memory; anything else as it is."""
    if isinstance(pixels, Image.Image):
        pixels = _from_pillow(pixels)
    if isinstance(pixels, np.ndarray):
        return torch.from_numpy(np.array(pixels, dtype=pixels.dtype.newbyteorder("="), order="C"))
    return pixels


def _from_pillow(picture: Image.Image) -> np.ndarray:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits a pixel; Pillow has no wider integer files
        return np.asarray(picture).clip(0, 65535).astype(np.uint16)
    if picture.mode == "F":
        return np.asarray(picture)
    if "transparency" in picture.info or "A" in picture.getbands():
        return np.asarray(picture.convert("RGBA"))
    return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))


def _check_images(images: Tensor) -> Tensor:
    """Any accepted layout and dtype -> fp32 [B, C, Y, X] in 0..1."""
    shape = tuple(images.shape)
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        hint = "; it looks like [B, C, H, W]" if images.ndim == 4 and images.shape[1] in (1, 3, 4) else ""
        raise ValueError(f"The reference has shape {shape}{hint}; [B, H, W, C] with 1, 3 or 4 channels is needed.")
    batch, height, width, _ = images.shape
    if batch == 0:
        raise ValueError("The reference is an empty batch; at least one picture is needed.")
    if min(height, width) < 1:
        raise ValueError(f"The reference is {width} x {height} pixels; at least 1 x 1 is needed.")
    return to_unit(images, "reference").movedim(-1, 1)


def to_unit(values: Tensor, what: str) -> Tensor:
    """Integers and floats -> fp32 in 0..1."""
    if values.dtype in (torch.uint8, torch.uint16):
        return values.to(torch.float32) / torch.iinfo(values.dtype).max
    if not values.is_floating_point() and values.dtype != torch.bool:
        raise ValueError(f"The {what} has dtype {values.dtype}; floats in 0..1, uint8 or uint16 are needed.")
    values = values.to(torch.float32)
    mean = float(values.mean())
    if not math.isfinite(mean) and (count := int((~torch.isfinite(values)).sum())):
        raise ValueError(f"The {what} has {count} values that are NaN or infinite; numbers from 0 to 1 are needed.")
    if mean > MAX_MEAN:
        raise ValueError(f"The {what} has values of {mean:.4g} on average; floats in 0..1, or uint8, are needed.")
    return values.clamp(0, 1)


def _check_mask(mask: Tensor, images_BCYX: Tensor) -> Tensor:
    """A mask of any size -> fp32 [B, 1, Y, X] in 0..1 of the pictures' size."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"The mask is a {type(mask).__name__}; a tensor [B, H, W] is needed.")
    batch, _, height, width = images_BCYX.shape
    if mask.ndim not in (2, 3, 4) or mask.numel() == 0 or math.prod(mask.shape[:-2]) not in (1, batch):
        raise ValueError(
            f"The mask has shape {tuple(mask.shape)}; [H, W], or [B, H, W] with one for each of {batch} pictures, "
            "is needed."
        )
    mask_B1YX = to_unit(mask.reshape(-1, 1, *mask.shape[-2:]).to(images_BCYX.device), "mask")
    return resize_mask(mask_B1YX, (height, width)).expand(batch, -1, -1, -1)
