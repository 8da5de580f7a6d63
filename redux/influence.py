"""Where a reference acts: the share of attention that each image token gives to each reference, the text and the image.

Shapes: B images, G groups, E Kontext pictures, L queries, S sources (references, then Kontext pictures, text,
image), I = rows x columns image tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .reference import Reference
from .step_weights import StepWeights

Source = Reference | str
PLACES = 8  # of sampling that are remembered
_LOCK = threading.Lock()  # hosts may sample on several GPUs at once; one for all, since recorders are copied


@dataclass(frozen=True, eq=False)
class Influence:
    """maps_BSyx: shares that sum to one over the sources, fp32 on the CPU; names: one for each source."""

    maps_BSyx: Tensor
    names: tuple[str, ...]


@dataclass
class _Sums:
    """Shares of one image in one kind of call, added up over blocks and steps."""

    count: int = 0
    pictures: int = 0
    maps: dict[Source, Tensor] = field(default_factory=dict)

    def add(self, source: Source, shares_I: Tensor) -> None:
        total = self.maps.get(source)
        self.maps[source] = shares_I.clone() if total is None else total + shares_I.to(total.device)


_Sampling = dict[tuple[int, tuple[int, int]], dict[int, _Sums]]  # by kind of call, and rows and columns


class Recorder:
    """Collects the shares of the last samplings, averaged over heads, blocks and steps, one for each place of sampling.

    A reference that is not acting in a step counts with a share of zero there. Calls for the positive and for the
    negative are kept apart, and so are those of areas of other sizes. Tiles of one size are averaged.
    """

    def __init__(self) -> None:
        self._run: object = None
        self._sums: _Sampling = {}
        self._samplings: dict[str, _Sampling] = {}

    @property
    def places(self) -> tuple[str, ...]:
        """Where was sampled, the last at the end."""
        return tuple(self._samplings)

    def begin(self, run: object, place: str = "") -> None:
        """Forget what was recorded at this place unless it belongs to the same sampling, which `run` stands for."""
        with _LOCK:
            if run is not self._run:
                self._run, self._sums = run, {}
                self._samplings.pop(place, None)
                while len(self._samplings) >= PLACES:
                    self._samplings.pop(next(iter(self._samplings)))
                self._samplings[place] = self._sums

    def add(
        self, shares_BGL: Tensor, weights: StepWeights, references: Sequence[Reference], kind: int, rows: Sequence[int]
    ) -> None:
        """Add one block of one step.

        Args:
            shares_BGL: of the parts of the active references, the text, Kontext pictures, and the rest, in this order.
            references: the active ones as `result` will name them; `weights` may know them by their part in a tile.
            kind: what these rows are for, 0 = the positive.
            rows: of the batch that belong to this recorder.
        """
        lengths = [len(reference.parts) for reference in references]
        layout = weights.layout
        first = weights.asking + layout.text
        numbers = range(1, len(layout.pictures) + 1)
        with _LOCK:
            grid = self._sums.setdefault((kind, (layout.rows, layout.columns)), {})
            for row in rows:
                shares_GI = shares_BGL[row, :, first : first + layout.image].float()
                *parts, text_1I, pictures_EI, image_1I = shares_GI.split([*lengths, 1, len(numbers), 1])
                sums = grid.setdefault(layout.images[row], _Sums())
                sums.count += 1
                sums.pictures = max(sums.pictures, len(numbers))
                for reference, part_PI in zip(references, parts, strict=True):
                    sums.add(reference, part_PI.sum(0))
                sums.add("text", text_1I[0])
                sums.add("image", image_1I[0])
                for number, picture_I in zip(numbers, pictures_EI, strict=True):
                    sums.add(f"picture {number}", picture_I)

    def result(self, references: Sequence[Reference], place: str | None = None) -> Influence | None:
        """The maps of these references in their order, and of the rest; None when nothing was recorded.

        Of several recordings the one of the positive counts, and of several areas the largest.

        Args:
            place: one of `places`; None = the last.
        """
        sampling = self._sums if place is None else self._samplings[place]
        if not sampling:
            return None
        kind, grid = min(sampling, key=lambda key: (key[0], -key[1][0] * key[1][1]))
        images = [sums for _, sums in sorted(sampling[kind, grid].items())]
        pictures = max(sums.pictures for sums in images)
        others = (*(f"picture {number}" for number in range(1, pictures + 1)), "text", "image")
        sources: tuple[Source, ...] = (*references, *others)
        maps_BSI = torch.stack([_mean_maps(sums, sources) for sums in images])
        names = [f"reference {number}" for number in range(1, len(references) + 1)]
        return Influence(maps_BSI.unflatten(-1, grid).cpu(), (*names, *others))


def _mean_maps(sums: _Sums, sources: Sequence[Source]) -> Tensor:
    nothing = torch.zeros_like(sums.maps["image"])
    return torch.stack([sums.maps.get(source, nothing) for source in sources]) / sums.count
