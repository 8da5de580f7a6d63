"""Which part of the picture a model call sees: a tile, a window, an area; and the references' regions in that part.

Other packs take every control for a ControlNet with a picture, and cut that picture when they cut the latent. So the
regions are the control's picture (`hint`), which is read back from the control that is called. ComfyUI's own windows
and areas cut nothing, but say where they are.

Shapes: B masks, R references, Y x X pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...redux.reference import Reference
from ...redux.region import cut_region, region_on_grid
from .context import Row
from .mark import Chunk, Chunks

PARTS = 16  # of the picture that are remembered
BLANK = 64  # pixels of the hint of references without a region
FINE = 512  # a coarser region is enlarged, so that tiles are cut where they are
LARGE = 4096  # but no side of it beyond this


@dataclass(frozen=True)
class Window:
    """A context window of ComfyUI: which places along a dimension of the latent the call has, of how many."""

    dim: int
    indices: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, options: dict[str, Any], x: Tensor) -> Window | None:
        """The window that a call with these transformer options and this latent is for, if any."""
        window = options.get("context_window")
        if window is None:
            return None
        anchor = getattr(window, "causal_anchor_index", None)
        indices = [*([anchor] if anchor is not None and anchor >= 0 else []), *window.index_list]
        fits = window.dim < x.ndim and (window.dim == 0 or x.shape[window.dim] == len(indices))
        return cls(window.dim, tuple(indices), window.total_frames) if fits else None


class Tile(NamedTuple):
    """By what a part of the picture is known: a hint that another pack has cut, a window of ComfyUI."""

    hint: Tensor | None
    window: Window | None


class Tiles:
    """What calls see of the regions of a control's references, remembered from one step to the next.

    Args:
        drawn: the hint as it was drawn, which nobody has cut.
    """

    def __init__(self, drawn: Tensor) -> None:
        self.drawn = drawn
        self._hints: dict[int, Tensor] = {}
        self._seen: dict[Any, tuple[Tensor | None, tuple[Reference, ...]]] = {}

    def find_hint(self, *hints: Tensor | None) -> Tensor | None:
        """The first of these that another pack has cut, if any."""
        for hint in hints:
            if hint is None or hint is self.drawn or hint.ndim != 4 or hint.shape[1] != self.drawn.shape[1]:
                continue
            if hint.shape != self.drawn.shape or not torch.equal(hint.to(self.drawn), self.drawn):
                return hint
        return None

    def remember(self, hint: Tensor) -> bool:
        """Keep a hint alive, so that its id stays its own, unless there are too many."""
        if id(hint) not in self._hints and len(self._hints) < PARTS:
            self._hints[id(hint)] = hint
        return id(hint) in self._hints

    def seen(
        self,
        chunks: Chunks,
        rows: Sequence[Row],
        size: tuple[int, int],
        tile: Tile,
        row_masks: bool,
    ) -> tuple[tuple[Reference, ...], bool]:
        """The references as this call's part of the picture has them, and whether their masks are for its rows.

        Args:
            rows: what each row of the call is.
            size: height and width of its latent.
            tile: of the picture; areas of the chunks are cut from it.
            row_masks: the hint has a mask for each row, not for each image.
        """
        references = chunks[0].mark.references
        areas = tuple((chunk.area, chunk.canvas) for chunk in chunks)
        hint, window = tile
        window = window if window is not None and window.dim >= 2 else None
        if hint is None and window is None and not any(area for area, _ in areas):
            return references, False
        apart = len(set(areas)) > 1
        key = (references, id(hint), window, size, areas, tuple(rows) if apart else None)
        if key not in self._seen:
            if len(self._seen) >= PARTS:
                self._seen.clear()
            parts = references if hint is None else from_hint(references, hint)
            whole = chunks[0].canvas or size
            parts = parts if window is None else in_window(parts, window, (whole[0], whole[1]))
            each = [in_area(parts, chunk) for chunk in chunks]
            masks = [(chunk, row if row_masks else image) for row, (chunk, image) in enumerate(rows)]
            self._seen[key] = (hint, row_by_row(each, masks) if apart else each[0])
        return self._seen[key][1], row_masks or apart


def rows_of(chunks: Chunks, count: int, window: Window | None, numbers: tuple[int, ...] = ()) -> list[Row]:
    """Which chunk and which image of the batch each row of a call is; tiles repeat all rows.

    Args:
        numbers: of the sampled latent's images, see `latent.image_numbers`.
    """
    images = window.indices if window is not None and window.dim == 0 else None
    rows = [(index, image) for index, chunk in enumerate(chunks) for image in range(chunk.images)]
    if images is not None:
        rows = [(chunk, images[image % len(images)]) for chunk, image in rows]
    total = chunks[0].images if images is None or window is None else window.total
    if len(numbers) == total:
        rows = [(chunk, numbers[image]) for chunk, image in rows]
    return [rows[row % len(rows)] for row in range(count)]


def draw_hint(references: Sequence[Reference]) -> Tensor:
    """[B, R, Y, X]: the regions as a picture, ones where a reference has none."""
    regions = [reference.region_RYX for reference in references if reference.region_RYX is not None]
    if not regions:
        return torch.ones(1, len(references), BLANK, BLANK)
    size = [max(region.shape[side] for region in regions) for side in (1, 2)]
    factor = max(1, min(-(-FINE // min(size)), LARGE // max(size)))
    height, width = (factor * side for side in size)
    batch = math.lcm(*map(len, regions))
    hint = torch.ones(batch, len(references), height, width)
    for index, reference in enumerate(references):
        if reference.region_RYX is not None:
            drawn = region_on_grid(reference.region_RYX, (height, width), 1)
            hint[:, index] = drawn[torch.arange(batch) % len(drawn)]
    return hint


def from_hint(references: Sequence[Reference], hint_BRYX: Tensor) -> tuple[Reference, ...]:
    """The references with the regions of a hint that another pack has cut."""
    hint_BRYX = hint_BRYX.detach().to("cpu", torch.float32)
    regions = [None if bool((region == 1).all()) else region for region in hint_BRYX.unbind(1)]
    return tuple(replace(one, region_RYX=region) for one, region in zip(references, regions, strict=True))


def in_window(references: Sequence[Reference], window: Window, size: tuple[int, int]) -> tuple[Reference, ...]:
    """The references with the regions that a window of this size (height, width) shows."""
    canvas, places = list(size), [range(side) for side in size]
    canvas[window.dim - 2], places[window.dim - 2] = window.total, window.indices  # type: ignore[call-overload]
    return _cut(references, (canvas[0], canvas[1]), *places)


def in_area(references: Sequence[Reference], chunk: Chunk) -> tuple[Reference, ...]:
    """The references with the regions that the chunk's area of its canvas shows."""
    if chunk.area is None or chunk.canvas is None:
        return tuple(references)
    height, width, top, left = chunk.area
    canvas = chunk.canvas[0], chunk.canvas[1]
    return _cut(references, canvas, range(top, top + height), range(left, left + width))


def row_by_row(chunks: Sequence[Sequence[Reference]], masks: Sequence[tuple[int, int]]) -> tuple[Reference, ...]:
    """The references of chunks that see different parts, with a mask for each row: (chunk, mask)."""
    rows = []
    for ones in zip(*chunks, strict=True):
        regions = [one.region_RYX for one in ones]
        if regions[0] is None:
            rows.append(ones[0])
        else:
            parts = [regions[chunk][mask % len(regions[chunk])] for chunk, mask in masks]
            rows.append(replace(ones[0], region_RYX=torch.stack(parts)))
    return tuple(rows)


def _cut(
    references: Sequence[Reference], canvas: tuple[int, int], rows: Sequence[int], columns: Sequence[int]
) -> tuple[Reference, ...]:
    return tuple(
        one if one.region_RYX is None else replace(one, region_RYX=cut_region(one.region_RYX, canvas, rows, columns))
        for one in references
    )
