"""References as groups of keys: what each one weighs for each query of one model call.

Keys and queries stand as [reference 1 | reference 2 | ... | text | image | Kontext pictures]. Queries of the references
themselves are not reweighted, as in ComfyUI's `attn_bias`, so that strengths mean the same.

Shapes: B images of the batch, L queries, R region masks, Y x X pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .attention import GroupPlan, prepare_groups
from .attention.groups import Group
from .schedule import BlockWeights, Schedule
from .tokens import ReduxTokens

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """A run of tokens with one weight.

    Attributes:
        length: number of tokens.
        bias: natural logarithm of what one token counts for every query, log(full_count / length) when normalised.
        images: which images of the batch read it, repeated over the batch; None = all.
    """

    length: int
    bias: float = 0.0
    images: tuple[bool, ...] | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """One reference in a conditioning and how it acts.

    Attributes:
        pieces: its tokens, in order.
        strength: weight in attention, >= 0; 1 is plain Redux.
        region_RYX: weights 0..1 over the output, one mask for all images or one for each; None = everywhere.
        schedule, blocks: over the steps, over the blocks.
    """

    pieces: tuple[Piece, ...]
    strength: float = 1.0
    region_RYX: Tensor | None = None
    schedule: Schedule = field(default_factory=Schedule)
    blocks: BlockWeights = field(default_factory=BlockWeights)

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength < math.inf:
            raise ValueError(f"The strength is {self.strength:g}; a number from 0 up is needed.")

    @property
    def length(self) -> int:
        return sum(piece.length for piece in self.pieces)

    @property
    def is_plain(self) -> bool:
        """Whether it never needs anything but standing in the sequence."""
        plain_pieces = all(piece.bias == 0.0 and piece.images is None for piece in self.pieces)
        return (
            self.strength == 1.0
            and self.region_RYX is None
            and self.schedule.is_constant
            and not self.blocks.rules
            and plain_pieces
        )


def place_tokens(tokens: ReduxTokens, batch: str = "joint", normalize: bool = True) -> tuple[Tensor, tuple[Piece, ...]]:
    """The tokens as they stand in the sequence, and their pieces.

    Args:
        batch: "joint", every image reads all pictures, or "per image", picture i is for image i (modulo their number).
        normalize: let each picture count as much as a whole one of `full_count` tokens.

    Returns:
        [1 or B, N, D] and pieces whose lengths sum to N. Pictures of unequal token counts ("per image", with masks)
        are padded with tokens that no image reads.
    """
    rows = [_pieces(tokens, parts, normalize) for parts in tokens.kept_parts()]
    if batch == "joint":
        flat = [pair for row in rows for pair in row]
        return torch.cat([part for part, _ in flat])[None], _merge([piece for _, piece in flat])
    if batch != "per image":
        raise ValueError(f"There is no batch mode '{batch}'; choose joint or per image.")
    return _place_per_image(rows)


def _pieces(tokens: ReduxTokens, kept: list[Tensor], normalize: bool) -> list[tuple[Tensor, Piece]]:
    """Tokens and weight of each part of one picture that has anything left."""
    pairs = []
    for part, part_ND in zip(tokens.parts, kept, strict=True):
        if len(part_ND):
            bias = math.log(part.weight) + (math.log(part.full_count / len(part_ND)) if normalize else 0.0)
            pairs.append((part_ND, Piece(len(part_ND), bias)))
    return pairs


def _merge(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Neighbours of equal weight as one piece: fewer groups, fewer kernels."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and (last.bias, last.images) == (piece.bias, piece.images):
            merged[-1] = Piece(last.length + piece.length, piece.bias, piece.images)
        else:
            merged.append(piece)
    return tuple(merged)


def _place_per_image(rows: list[list[tuple[Tensor, Piece]]]) -> tuple[Tensor, tuple[Piece, ...]]:
    """One row of tokens an image.

    Rows of equal pieces are stacked. Of unequal ones each kind of row gets a place of its own, which an image of
    another kind fills with zeros and never reads, so that the groups of attention stay whole and exact.
    """
    kinds = [tuple(piece for _, piece in row) for row in rows]
    columns: list[Tensor] = []
    pieces: list[Piece] = []
    for kind in dict.fromkeys(kinds):
        images = tuple(other == kind for other in kinds)
        fill = torch.zeros_like(torch.cat([part for part, _ in rows[images.index(True)]]))
        parts = [
            torch.cat([part for part, _ in row]) if reads else fill for row, reads in zip(rows, images, strict=True)
        ]
        columns.append(torch.stack(parts))
        pieces += kind if all(images) else [replace(piece, images=images) for piece in kind]
    return torch.cat(columns, dim=1), _merge(pieces)


@dataclass(frozen=True)
class Layout:
    """What one model call consists of besides the references: token counts and the batch."""

    text: int
    rows: int
    columns: int
    extra: int = 0
    batch: int = 1
    chunks: int = 1

    @property
    def image(self) -> int:
        return self.rows * self.columns


class StepWeights:
    """The weights of one model call, made into an attention plan for each block on demand.

    Everything is computed on the CPU, where reading a number does not wait for the GPU.

    Args:
        active: references in the order of their tokens, each with its weight at this step (> 0).
        layout: of the call.
        device: where attention runs.
        track: keep references, text and image apart, so that their shares can be counted.
    """

    def __init__(
        self,
        active: Sequence[tuple[Reference, float]],
        layout: Layout,
        device: torch.device | str,
        track: bool = False,
    ) -> None:
        self.active = tuple(active)
        self.layout = layout
        self.device = device
        self.track = track
        self.references = sum(reference.length for reference, _ in self.active)
        self.length = self.references + layout.text + layout.image + layout.extra
        self._regions = [self._region(reference) for reference, _ in self.active]
        self._plans: dict[tuple[float, ...], GroupPlan] = {}

    def plan(self, kind: str, index: int) -> GroupPlan:
        """The plan for one block, e.g. ("single", 3); blocks of equal factors share one."""
        factors = tuple(reference.blocks.factor(kind, index) for reference, _ in self.active)
        if factors not in self._plans:
            self._plans[factors] = prepare_groups(self.groups(factors), self.length, self.device)
        return self._plans[factors]

    def groups(self, factors: tuple[float, ...]) -> list[Group]:
        """(start, stop, log weight) of every piece of every reference, then of the text if it is tracked."""
        groups: list[Group] = []
        start = 0
        for (reference, weight), region, factor in zip(self.active, self._regions, factors, strict=True):
            for piece in reference.pieces:
                groups.append((start, start + piece.length, self._log_weight(piece, region, weight * factor)))
                start += piece.length
        if self.track:
            groups.append((start, start + self.layout.text, 0.0))
        return groups

    def _log_weight(self, piece: Piece, region_BQ: Tensor | None, weight: float) -> float | Tensor:
        if region_BQ is None and piece.images is None and weight == 1.0:
            return piece.bias
        queries = self.length - self.references
        weight_BQ = torch.full((1, queries), weight, dtype=torch.float32)
        if region_BQ is not None:
            weight_BQ = weight_BQ * region_BQ
        own_BK = weight_BQ.new_ones(len(weight_BQ), self.references)
        log_BL = torch.cat((own_BK, weight_BQ), dim=1).log() + piece.bias
        if piece.images is not None:
            reads_B1 = torch.tensor(self._over_batch(piece.images))[:, None]
            log_BL = torch.where(reads_B1, log_BL, -math.inf)
        return log_BL[0] if len(log_BL) == 1 else log_BL

    def _region(self, reference: Reference) -> Tensor | None:
        """The region's weight for each query behind the references: [1 or B, text + image + extra].

        Text reads the reference with the region's mean, so that a region of zeros is no reference at all and a region
        of ones a whole one. Tokens of Kontext pictures keep 1.
        """
        if reference.region_RYX is None:
            return None
        grid = (self.layout.rows, self.layout.columns)
        region_RYX = reference.region_RYX.to("cpu", torch.float32)
        image_RI = interpolate(region_RYX[:, None], size=grid, mode="area").flatten(1).clamp(0, 1)
        text_RT = image_RI.mean(1, keepdim=True).expand(-1, self.layout.text)
        extra_RE = image_RI.new_ones(len(image_RI), self.layout.extra)
        region_RQ = torch.cat((text_RT, image_RI, extra_RE), dim=1)
        if len(region_RQ) == 1:
            return region_RQ
        return region_RQ[torch.tensor(self._over_batch(range(len(region_RQ))))]

    def _over_batch(self, values: Sequence[T]) -> list[T]:
        """Values of images repeated over a batch that a host may hold several times (with and without prompt)."""
        images = self.layout.batch // self.layout.chunks
        return [values[index % images % len(values)] for index in range(self.layout.batch)]
