"""Scenes of one or two emoji on a coloured background: what is in them, and how they are drawn.

Shapes: N scenes, K objects in each (1 or 2), C channels, Y x X pixels. Coordinates run from -1 to 1, left to right and
top to bottom. Everything is a tensor with one row a scene, on any device, so that a GPU draws thousands at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from .vocabulary import COLOURS, PATTERNS, PLACES, STYLES

SMALL, LARGE = 0.5, 0.75  # half width of an object, relative to the picture's
SIDE_WAYS = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])  # by place: x, y


@dataclass
class Scenes:
    """A batch of scenes.

    Attributes:
        objects, styles: [N, K] indices.
        boxes: [N, K, 4], half width, centre x, centre y, rotation in radians.
        colours, patterns: [N] indices of the background.
        phases: [N, 4] in 0..1, the pattern's offset and size.
        tints: [N, 3], added to the background's colour.
        places, sizes, arrangements: [N] indices of the words that describe the boxes; sizes 2 = neither word.
    """

    objects: Tensor
    styles: Tensor
    boxes: Tensor
    colours: Tensor
    patterns: Tensor
    phases: Tensor
    tints: Tensor
    places: Tensor
    sizes: Tensor
    arrangements: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Scenes:
        return Scenes(**{field.name: function(getattr(self, field.name)) for field in fields(self)})

    def __len__(self) -> int:
        return len(self.colours)


class Emoji:
    """The rendered icons on a device.

    Attributes:
        names, categories: of the concepts.
        train, held_out: indices of the concepts.
    """

    def __init__(self, path: str | Path, device: torch.device | str) -> None:
        with np.load(path) as arrays:
            pixels = torch.from_numpy(arrays["pixels"])
            self.names = [str(name) for name in arrays["names"]]
            self.categories = [str(name) for name in arrays["categories"]]
            held_out = torch.from_numpy(arrays["held_out"])
        self.device = torch.device(device)
        self.train = torch.nonzero(~held_out)[:, 0].to(device)
        self.held_out = torch.nonzero(held_out)[:, 0].to(device)
        self._atlas = self._build(pixels)

    def _build(self, pixels: Tensor) -> Tensor:
        """uint8 [2, styles, concepts, 4, 128, 128], colours times alpha; level 1 is smoothed, for small objects."""
        levels = torch.empty(2, *pixels.shape[:2], 4, *pixels.shape[2:4], dtype=torch.uint8, device=self.device)
        for style, icons in enumerate(pixels):
            for start in range(0, len(icons), 256):
                rgba = icons[start : start + 256].to(self.device).permute(0, 3, 1, 2).float()
                rgba[:, :3] *= rgba[:, 3:] / 255
                smooth = interpolate(avg_pool2d(rgba, 2), scale_factor=2, mode="bilinear", align_corners=False)
                levels[0, style, start : start + 256] = rgba.round().byte()
                levels[1, style, start : start + 256] = smooth.round().byte()
        return levels

    def draw(self, scenes: Scenes, side: int = 128) -> Tensor:
        """Pictures [N, 3, side, side] in 0..1; the first object is in front."""
        picture = backgrounds(scenes, side)
        for index in reversed(range(scenes.objects.shape[1])):
            box = scenes.boxes[:, index]
            level = (box[:, 0] < 0.62).long()
            icon = self._atlas[level, scenes.styles[:, index], scenes.objects[:, index]].float() / 255
            grid = affine_grid(_affine(box), [len(icon), 4, side, side], align_corners=False)
            icon = grid_sample(icon, grid, align_corners=False)
            picture = icon[:, :3] + picture * (1 - icon[:, 3:])
        return picture.clamp(0, 1)


def _affine(box_N4: Tensor) -> Tensor:
    """Picture coordinates to icon coordinates [N, 2, 3]: move to the centre, turn back, scale up."""
    half, x, y, angle = box_N4.unbind(-1)
    cos, sin = angle.cos() / half, angle.sin() / half
    return torch.stack((cos, sin, -(cos * x + sin * y), -sin, cos, sin * x - cos * y), -1).unflatten(-1, (2, 3))


def backgrounds(scenes: Scenes, side: int) -> Tensor:
    """[N, 3, side, side]: two tones of the colour, mixed by the pattern."""
    palette = torch.tensor(list(COLOURS.values()), device=scenes.colours.device, dtype=torch.float32) / 255
    base = (palette[scenes.colours] + scenes.tints)[:, :, None, None]
    bright = base.mean(1, keepdim=True) > 0.6
    other = torch.where(bright, base * 0.78, base + (1 - base) * 0.3)
    return base + (other - base) * _pattern(scenes, side)


def _pattern(scenes: Scenes, side: int) -> Tensor:
    """Share of the second tone [N, 1, side, side], with soft edges about a pixel wide."""
    line = (torch.arange(side, device=scenes.colours.device) + 0.5) / side * 2 - 1
    phase = scenes.phases[:, :, None, None]
    shift_x, shift_y = phase[:, 0] * math.tau, phase[:, 1] * math.tau
    speed = math.pi * (2.5 + phase[:, 2])
    x, y = line[None, None, :] * speed + shift_x, line[None, :, None] * speed + shift_y
    edge = side / 16
    stripes = (torch.sin(x + y) * edge + 0.5).clamp(0, 1)
    dots = ((torch.cos(x * 1.3) + torch.cos(y * 1.3) - 0.9) * edge + 0.5).clamp(0, 1)
    checks = (torch.sin(x) * torch.sin(y) * edge + 0.5).clamp(0, 1)
    gradient = ((line[None, :, None] + 1) / 2 * 1.6).expand_as(stripes)
    kinds = torch.stack((torch.zeros_like(stripes), stripes, dots, checks, gradient), 1)
    return kinds[torch.arange(len(scenes)), scenes.patterns][:, None]


def make_scenes(objects_NK: Tensor, one_style: bool = True) -> Scenes:
    """Random scenes with the given objects [N, K]; all objects of a scene share the style if `one_style`."""
    count, kinds = objects_NK.shape
    device = objects_NK.device
    styles = torch.randint(len(STYLES), (count, kinds), device=device)
    arrangements = torch.randint(2, (count,), device=device)
    boxes, places = _two_boxes(arrangements) if kinds == 2 else _one_box(count, device)
    half = boxes[:, 0, 0]
    return Scenes(
        objects=objects_NK,
        styles=styles[:, :1].expand(-1, kinds).contiguous() if one_style else styles,
        boxes=boxes,
        colours=torch.randint(len(COLOURS), (count,), device=device),
        patterns=random_patterns(count, device),
        phases=torch.rand(count, 4, device=device),
        tints=torch.randn(count, 3, device=device) * 0.02,
        places=places,
        sizes=torch.where(half < SMALL, 0, torch.where(half > LARGE, 1, 2)),
        arrangements=arrangements,
    )


def random_patterns(count: int, device: torch.device) -> Tensor:
    """Half of the backgrounds are plain."""
    patterns = torch.randint(1, len(PATTERNS), (count,), device=device)
    return torch.where(torch.rand(count, device=device) < 0.5, 0, patterns)


def _one_box(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Most objects are large and central; the others stand at a side. Returns boxes [N, 1, 4] and places [N]."""
    central = torch.rand(count, device=device) < 0.65
    places = torch.where(central, 0, torch.randint(1, len(PLACES), (count,), device=device))
    lowest = torch.where(torch.rand(count, device=device) < 0.6, 0.65, 0.4)  # a big object has details to learn
    big = lowest + torch.rand(count, device=device) * (0.95 - lowest)
    half = torch.where(central, big, _uniform(count, device, 0.34, 0.5))
    away = SIDE_WAYS.to(device)[places] * (0.92 - half)[:, None]
    centre = away + torch.randn(count, 2, device=device) * 0.05
    return torch.cat((half[:, None], centre, torch.randn(count, 1, device=device) * 0.07), 1)[:, None], places


def _two_boxes(arrangements_N: Tensor) -> tuple[Tensor, Tensor]:
    """Two objects side by side (0) or stacked (1), in either order. Returns boxes [N, 2, 4] and no places."""
    count, device = len(arrangements_N), arrangements_N.device
    half = _uniform((count, 2), device, 0.36, 0.5)
    sign = torch.where(torch.rand(count, 1, device=device) < 0.5, -1.0, 1.0) * torch.tensor(
        [[1.0, -1.0]], device=device
    )
    along = sign * (0.97 - half) + torch.randn(count, 2, device=device) * 0.03
    across = torch.randn(count, 2, device=device) * 0.1
    stacked = (arrangements_N == 1)[:, None]
    x, y = torch.where(stacked, across, along), torch.where(stacked, along, across)
    return torch.stack((half, x, y, torch.randn(count, 2, device=device) * 0.07), -1), torch.zeros_like(arrangements_N)


def _uniform(shape: int | tuple[int, ...], device: torch.device, low: float, high: float) -> Tensor:
    return torch.rand(shape, device=device) * (high - low) + low
