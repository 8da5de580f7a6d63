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

from .keeping import QUALITIES, Quality
from .schedule import BlockWeights, Schedule
from .tokens import Part, ReduxTokens
from .typed import short

# What a strength is. "even": the part of its natural attention that a reference keeps, a straight line from the
# picture without it to plain Redux (redux.attention.share); above 1 a weight. "weight": a factor of what its tokens
# count, as ComfyUI's attn_bias, of which a tenth may still leave half of the attention.
RESPONSES = ("even", "weight")

Weight = float | tuple[float, ...]  # at one moment: one for all images of a batch, or one for each


@dataclass(frozen=True, eq=False)
class Reference:
    """One reference in a conditioning and how it acts.

    Attributes:
        parts: its tokens, in order.
        strength: >= 0; 0 is no reference, 1 plain Redux.
        region_RYX: weights 0..1 over the output, one mask for all images or one for each; None = everywhere.
        schedule, blocks: over the steps, over the blocks and heads.
        response: what the strength is, one of RESPONSES; region, schedule, blocks and parts are factors of it.
        strengths: one for each image of the batch, repeated over it, in place of `strength`; none = the same for all.
        ends: the same for the end of the schedule.
        keep: whether its keys and values are kept between steps, and how closely; see `redux.keeping`.
        picture: None for a reference with tokens of its own. Otherwise it has no parts, and weighs a Kontext picture
            that the host puts behind the image: this one, counted from 1, or all (0).
    """

    parts: tuple[Part, ...]
    strength: float = 1.0
    region_RYX: Tensor | None = None
    schedule: Schedule = field(default_factory=Schedule)
    blocks: BlockWeights = field(default_factory=BlockWeights)
    keep: Quality = "exact"
    response: str = "weight"
    picture: int | None = None
    strengths: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for strength in (self.strength, *self.strengths):
            if not 0.0 <= strength < math.inf:
                raise ValueError(f"The strength is {strength:g}; a number from 0 up is needed.")
        _ = self.schedules  # refuses an end that is not after the start
        if self.keep not in QUALITIES:
            raise ValueError(f"There is no quality '{short(self.keep)}'; choose one of {', '.join(QUALITIES)}.")
        if self.response not in RESPONSES:
            raise ValueError(f"There is no response '{short(self.response)}'; choose {' or '.join(RESPONSES)}.")
        if self.picture is not None and (self.picture < 0 or self.parts):
            raise ValueError(f"There is no picture {self.picture}; a number from 1 up is needed, or 0 for all.")

    @property
    def length(self) -> int:
        return sum(part.length for part in self.parts)

    @property
    def is_picture(self) -> bool:
        """Whether it weighs Kontext pictures and has no tokens of its own."""
        return self.picture is not None

    def vanishes(self, weight: Weight) -> bool:
        """Whether nothing reads it with this weight at a step."""
        return weight == 0 or (self.region_RYX is not None and not bool(self.region_RYX.any()))

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """One for all images of the batch, or one for each, repeated over it."""
        return tuple(replace(self.schedule, end=end) for end in self.ends) or (self.schedule,)

    def weight(self, percent: float) -> Weight:
        """Strength times curve at a moment, a share of the denoising."""
        strengths, factors = self.strengths or (self.strength,), [each.factor(percent) for each in self.schedules]
        images = range(math.lcm(len(strengths), len(factors)))
        weights = tuple(strengths[image % len(strengths)] * factors[image % len(factors)] for image in images)
        return weights[0] if len(set(weights)) == 1 else weights

    def is_plain(self, weight: Weight) -> bool:
        """Whether, with this weight at a step, it needs nothing but standing in the sequence."""
        plain_parts = all(part.is_plain for part in self.parts)
        return weight == 1.0 and self.region_RYX is None and not self.blocks.rules and plain_parts


def place_tokens(tokens: ReduxTokens, batch: str = "joint", normalize: bool = True) -> tuple[Tensor, tuple[Part, ...]]:
    """The tokens as they stand in the sequence, and their parts.

    Args:
        batch: "joint", every image reads all pictures, or "per image", picture i is for image i (modulo their number).
        normalize: let each picture count as much as a whole one of `full_count` tokens.

    Returns:
        [1 or B, N, D] and parts whose lengths sum to N. Pictures of unequal token counts ("per image", with masks)
        are padded with tokens that no image reads.

    Raises:
        ValueError: a picture of which nothing is left, tokens that are not finite, or another batch mode.
    """
    tokens.check_finite()
    rows = [_without_dropped(tokens, parts, normalize) for parts in tokens.kept_parts()]
    if not all(rows):
        raise ValueError(f"Picture {rows.index([]) + 1} of the reference has no tokens left; its mask covers nothing.")
    if batch == "joint":
        flat = [pair for row in rows for pair in row]
        return torch.cat([part_ND for part_ND, _ in flat])[None], _merge([part for _, part in flat])
    if batch != "per image":
        raise ValueError(f"There is no batch mode '{short(batch)}'; choose joint or per image.")
    return _place_per_image(rows)


def _without_dropped(tokens: ReduxTokens, kept: list[Tensor], normalize: bool) -> list[tuple[Tensor, Part]]:
    """The tokens of each part of one picture that has anything left, and the part that those are."""
    pairs = []
    for part, part_ND in zip(tokens.parts, kept, strict=True):
        if length := len(part_ND):
            grids = part.grids if length == part.length else ((1, length),)
            pairs.append((part_ND, Part(grids, part.full_count if normalize else length, part.weight)))
    return pairs


def _merge(parts: list[Part]) -> tuple[Part, ...]:
    """Neighbours that act alike as one part: fewer groups, fewer kernels."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        if last and last.acts_like(part):
            grids, full_count = last.grids + part.grids, last.full_count + part.full_count
            merged[-1] = replace(last, grids=grids, full_count=full_count)
        else:
            merged.append(part)
    return tuple(merged)


def _place_per_image(rows: list[list[tuple[Tensor, Part]]]) -> tuple[Tensor, tuple[Part, ...]]:
    """One row of tokens an image.

    Rows of equal parts are stacked. Of unequal ones each kind of row gets a place of its own, which an image of
    another kind fills with zeros and never reads, so that the groups of attention stay whole and exact.
    """
    kinds = [tuple(part for _, part in row) for row in rows]
    columns: list[Tensor] = []
    parts: list[Part] = []
    for kind in dict.fromkeys(kinds):
        images = tuple(other == kind for other in kinds)
        fill = torch.zeros_like(torch.cat([part_ND for part_ND, _ in rows[images.index(True)]]))
        own = [
            torch.cat([part_ND for part_ND, _ in row]) if reads else fill
            for row, reads in zip(rows, images, strict=True)
        ]
        columns.append(torch.stack(own))
        parts += kind if all(images) else [replace(part, images=images) for part in kind]
    return torch.cat(columns, dim=1), _merge(parts)
