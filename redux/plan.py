"""The weights of one model call: which keys weigh what for which query, made into a plan of attention.

Shapes: B images of the batch, L queries, Q of them behind the references, R region masks, T text, I image and
E Kontext tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .attention import GroupPlan, prepare_groups
from .attention.groups import Group
from .control import Piece, Reference
from .region import region_on_grid

T = TypeVar("T")
Active = tuple[tuple[Reference, float], ...]


@dataclass(frozen=True)
class Layout:
    """What one model call consists of besides the references.

    Attributes:
        text: number of text tokens.
        height, width: of the latent.
        patch: side of an image token in latent pixels.
        extra: number of tokens of Kontext pictures, which stand last.
        batch: images, all chunks together.
        chunks: how often the host repeats the images in one call (with the prompt, without it).
    """

    text: int
    height: int
    width: int
    patch: int = 2
    extra: int = 0
    batch: int = 1
    chunks: int = 1

    @property
    def rows(self) -> int:
        return -(-self.height // self.patch)

    @property
    def columns(self) -> int:
        return -(-self.width // self.patch)

    @property
    def image(self) -> int:
        return self.rows * self.columns


class StepWeights:
    """Plans of attention for each block of one model call, made on demand.

    Everything is computed on the CPU, where reading a number does not wait for the GPU.

    Args:
        active: references in the order of their tokens, each with its weight at this step (> 0).
        layout: of the call.
        device: where attention runs.
        track: keep references, text and image apart, so that their shares can be counted.
        regions: keeps regions on the token grid from one step to the next.
    """

    def __init__(
        self,
        active: Active,
        layout: Layout,
        device: torch.device | str,
        track: bool = False,
        regions: dict[tuple[Reference, Layout], Tensor] | None = None,
    ) -> None:
        self.active = active
        self.layout = layout
        self.device = device
        self.track = track
        self.references = sum(reference.length for reference, _ in active)
        self.length = self.references + layout.text + layout.image + layout.extra
        self._regions = {} if regions is None else regions
        self._plans: dict[tuple[int, tuple[float, ...]], GroupPlan] = {}

    def fits(self, queries: int, keys: int) -> bool:
        """Whether an attention has this layout.

        Hosts may keep the keys of Kontext pictures and leave out their queries.
        """
        return keys == self.length and queries in (self.length, self.length - self.layout.extra)

    def plan(self, kind: str, index: int, queries: int | None = None) -> GroupPlan:
        """The plan for one block, e.g. ("single", 3), and its first `queries` queries; equal blocks share one."""
        queries = self.length if queries is None else queries
        factors = tuple(reference.blocks.factor(kind, index) for reference, _ in self.active)
        key = (queries, factors)
        if key not in self._plans:
            self._plans[key] = prepare_groups(self.groups(factors, queries), self.length, self.device)
        return self._plans[key]

    def groups(self, factors: tuple[float, ...], queries: int) -> list[Group]:
        """(start, stop, log weight) of every piece of every reference, then of the text if it is tracked."""
        groups: list[Group] = []
        start = 0
        shared: dict[tuple, float | Tensor] = {}  # groups with one and the same tensor are joined, which saves kernels
        for (reference, weight), factor in zip(self.active, factors, strict=True):
            for piece in reference.pieces:
                piece_weight = weight * factor * piece.weight
                key = (id(reference.region_RYX), piece_weight, piece.bias, piece.images)
                if key not in shared:
                    shared[key] = self._log_weight(piece, reference, piece_weight, queries)
                groups.append((start, start + piece.length, shared[key]))
                start += piece.length
        if self.track:
            groups.append((start, start + self.layout.text, 0.0))
        return groups

    def _log_weight(self, piece: Piece, reference: Reference, weight: float, queries: int) -> float | Tensor:
        """A number, [L] or [B, L]. Queries of the references themselves know the piece's bias only."""
        if reference.region_RYX is None and piece.images is None and weight == 1.0:
            return piece.bias
        weight_BQ = torch.full((1, self.length - self.references), weight, dtype=torch.float32)
        if reference.region_RYX is not None:
            weight_BQ = weight_BQ * self._region(reference)
        own_BK = weight_BQ.new_ones(len(weight_BQ), self.references)
        log_BL = torch.cat((own_BK, weight_BQ), dim=1)[:, :queries].log() + piece.bias
        if piece.images is not None:
            reads_B1 = torch.tensor(self._over_batch(piece.images))[:, None]
            log_BL = torch.where(reads_B1, log_BL, -math.inf)
        return log_BL[0] if len(log_BL) == 1 else log_BL

    def _region(self, reference: Reference) -> Tensor:
        """The region's weight for each query behind the references: [1 or B, text + image + extra].

        Text reads the reference with the region's mean, so that a region of zeros is no reference at all and a region
        of ones a whole one. Tokens of Kontext pictures, which lie nowhere in the picture, keep 1 unless the region is
        zeros.
        """
        key = (reference, self.layout)
        if key not in self._regions:
            assert reference.region_RYX is not None
            layout = self.layout
            image_RI = region_on_grid(reference.region_RYX, (layout.height, layout.width), layout.patch).flatten(1)
            text_RT = image_RI.mean(1, keepdim=True).expand(-1, layout.text)
            extra_RE = (image_RI.amax(1, keepdim=True) > 0).float().expand(-1, layout.extra)
            region_RQ = torch.cat((text_RT, image_RI, extra_RE), dim=1)
            if len(region_RQ) > 1:
                region_RQ = region_RQ[torch.tensor(self._over_batch(range(len(region_RQ))))]
            self._regions[key] = region_RQ
        return self._regions[key]

    def _over_batch(self, values: Sequence[T]) -> list[T]:
        """Values of images repeated over a batch that a host may hold several times (with and without prompt)."""
        images = self.layout.batch // self.layout.chunks
        return [values[index % images % len(values)] for index in range(self.layout.batch)]
