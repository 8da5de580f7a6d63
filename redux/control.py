"""References and how they act: which tokens stand in the sequence, what they count, where and when.

Keys and queries stand as [reference 1 | reference 2 | ... | text | image | Kontext pictures]. Queries of the references
themselves are not reweighted, as in ComfyUI's `attn_bias`, so that strengths mean the same.

Shapes: B pictures, N tokens, D width; R region masks, Y x X pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .schedule import BlockWeights, Schedule
from .tokens import ReduxTokens


@dataclass(frozen=True)
class Piece:
    """A run of tokens with one weight.

    Attributes:
        length: number of tokens.
        bias: natural logarithm of what one token counts for every query, log(full_count / length) when normalised.
        weight: factor of the reference's strength, > 0.
        images: which images of the batch read it, repeated over the batch; None = all.
    """

    length: int
    bias: float = 0.0
    weight: float = 1.0
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

    def is_plain(self, weight: float) -> bool:
        """Whether, with this weight at a step, it needs nothing but standing in the sequence."""
        plain_pieces = all(replace(piece, length=0) == Piece(0) for piece in self.pieces)
        return weight == 1.0 and self.region_RYX is None and not self.blocks.rules and plain_pieces


def place_tokens(tokens: ReduxTokens, batch: str = "joint", normalize: bool = True) -> tuple[Tensor, tuple[Piece, ...]]:
    """The tokens as they stand in the sequence, and their pieces.

    Args:
        batch: "joint", every image reads all pictures, or "per image", picture i is for image i (modulo their number).
        normalize: let each picture count as much as a whole one of `full_count` tokens.

    Returns:
        [1 or B, N, D] and pieces whose lengths sum to N. Pictures of unequal token counts ("per image", with masks)
        are padded with tokens that no image reads.

    Raises:
        ValueError: a picture of which nothing is left, or another batch mode.
    """
    rows = [_pieces(tokens, parts, normalize) for parts in tokens.kept_parts()]
    if not all(rows):
        raise ValueError(f"Picture {rows.index([]) + 1} of the reference has no tokens left; its mask covers nothing.")
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
            bias = math.log(part.full_count / len(part_ND)) if normalize else 0.0
            pairs.append((part_ND, Piece(len(part_ND), bias, part.weight)))
    return pairs


def _merge(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Neighbours of equal weight as one piece: fewer groups, fewer kernels."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if last and replace(last, length=piece.length) == piece:
            merged[-1] = replace(piece, length=last.length + piece.length)
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
