"""Where a reference acts: the share of attention that each image token gives to each reference, the text and the image.

Shapes: B images, G groups, L queries, S sources (references, then text, then image), I = rows x columns image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Reference, StepWeights

Source = Reference | str


@dataclass(frozen=True, eq=False)
class Influence:
    """maps_BSyx: shares that sum to one over the sources; names: one for each source."""

    maps_BSyx: Tensor
    names: tuple[str, ...]

    def means(self) -> dict[str, float]:
        """The share of each source over all images and tokens."""
        return dict(zip(self.names, self.maps_BSyx.mean(dim=(0, 2, 3)).tolist(), strict=True))


class Recorder:
    """Collects the shares of one sampling, averaged over heads, blocks and steps.

    The last sampling counts: `reset` is called when one starts. A reference that is not acting in a step counts with
    a share of zero there.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.grid = (0, 0)
        self._sums: dict[Source, Tensor] = {}

    def add(self, shares_BGL: Tensor, weights: StepWeights) -> None:
        """Add one block of one step.

        Args:
            shares_BGL: of the pieces of the active references, the text, and the rest, in this order.
        """
        layout = weights.layout
        if self.count and self.grid != (layout.rows, layout.columns):
            self.reset()
        self.count, self.grid = self.count + 1, (layout.rows, layout.columns)
        first = weights.references + layout.text
        shares_BGI = shares_BGL[:, :, first : first + layout.image].float()
        shares_BGI = shares_BGI.unflatten(0, (layout.chunks, -1)).mean(0)
        start = 0
        for reference, _ in weights.active:
            stop = start + len(reference.pieces)
            self._add(reference, shares_BGI[:, start:stop].sum(1))
            start = stop
        self._add("text", shares_BGI[:, start])
        self._add("image", shares_BGI[:, start + 1])

    def _add(self, source: Source, shares_BI: Tensor) -> None:
        total = self._sums.get(source)
        self._sums[source] = shares_BI.clone() if total is None else total + shares_BI

    def result(self, references: tuple[Reference, ...]) -> Influence | None:
        """The maps of these references in their order, or None when nothing was recorded."""
        if not self.count:
            return None
        nothing = torch.zeros_like(self._sums["image"])
        sources: tuple[Source, ...] = (*references, "text", "image")
        sums = [self._sums.get(source, nothing) for source in sources]
        maps_BSI = torch.stack(sums, dim=1) / self.count
        names = [f"reference {number}" for number in range(1, len(references) + 1)]
        return Influence(maps_BSI.unflatten(-1, self.grid).cpu(), (*names, "text", "image"))
