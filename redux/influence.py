"""Where a reference acts: the share of attention that each image token gives to each reference, the text and the image.

Shapes: B images, G groups, L queries, S sources (references, then text, then image), I = rows x columns image tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .control import Reference
from .plan import StepWeights

Source = Reference | str
_LOCK = threading.Lock()  # hosts may sample on several GPUs at once; one for all, since recorders are copied


@dataclass(frozen=True, eq=False)
class Influence:
    """maps_BSyx: shares that sum to one over the sources, fp32 on the CPU; names: one for each source."""

    maps_BSyx: Tensor
    names: tuple[str, ...]


@dataclass
class _Sums:
    """Shares of one kind of call, added up over blocks and steps."""

    count: int = 0
    maps: dict[Source, Tensor] = field(default_factory=dict)

    def add(self, source: Source, shares_BI: Tensor) -> None:
        total = self.maps.get(source)
        self.maps[source] = shares_BI.clone() if total is None else total + shares_BI.to(total.device)


class Recorder:
    """Collects the shares of the last sampling, averaged over heads, blocks and steps.

    A reference that is not acting in a step counts with a share of zero there. Calls for the positive and for the
    negative are kept apart, and so are those of areas of other sizes.
    """

    def __init__(self) -> None:
        self._run: object = None
        self._sums: dict[tuple[int, tuple[int, int]], _Sums] = {}

    def begin(self, run: object) -> None:
        """Forget what was recorded unless it belongs to the same sampling, which `run` stands for."""
        with _LOCK:
            if run is not self._run:
                self._run, self._sums = run, {}

    def add(self, shares_BGL: Tensor, weights: StepWeights, kinds: Sequence[int]) -> None:
        """Add one block of one step.

        Args:
            shares_BGL: of the pieces of the active references, the text, and the rest, in this order.
            kinds: what each chunk of the batch is for, 0 = the positive.
        """
        layout = weights.layout
        first = weights.references + layout.text
        shares_BGI = shares_BGL[:, :, first : first + layout.image].float()
        with _LOCK:
            for kind, part_BGI in zip(kinds, shares_BGI.chunk(layout.chunks), strict=True):
                sums = self._sums.setdefault((kind, (layout.rows, layout.columns)), _Sums())
                sums.count += 1
                start = 0
                for reference, _ in weights.active:
                    stop = start + len(reference.pieces)
                    sums.add(reference, part_BGI[:, start:stop].sum(1))
                    start = stop
                sums.add("text", part_BGI[:, start])
                sums.add("image", part_BGI[:, start + 1])

    def result(self, references: Sequence[Reference]) -> Influence | None:
        """The maps of these references in their order, or None when nothing was recorded.

        Of several recordings the one of the positive counts, and of several areas the largest.
        """
        if not self._sums:
            return None
        kind, grid = min(self._sums, key=lambda key: (key[0], -key[1][0] * key[1][1]))
        sums = self._sums[kind, grid]
        nothing = torch.zeros_like(sums.maps["image"])
        sources: tuple[Source, ...] = (*references, "text", "image")
        maps_BSI = torch.stack([sums.maps.get(source, nothing) for source in sources], dim=1) / sums.count
        names = [f"reference {number}" for number in range(1, len(references) + 1)]
        return Influence(maps_BSI.unflatten(-1, grid).cpu(), (*names, "text", "image"))
