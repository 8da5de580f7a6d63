"""The weights of one model call: which keys weigh what for which query, made into a plan of attention.

Shapes: B images of the batch, H heads, L queries, A of them of the references, which come first, and Q behind them,
R region masks, T text, I image and E Kontext tokens; lower case = the size or 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .attention import GroupPlan, prepare_groups
from .attention.amounts import LARGEST, LogWeight, Share
from .attention.groups import GroupSpec
from .reference import Reference, Weight
from .region import region_on_grid
from .schedule import HEAD_COUNT
from .tokens import Part

T = TypeVar("T")
Factor = float | tuple[float, ...]  # one for all heads, or one for each
Active = tuple[tuple[Reference, Weight], ...]


@dataclass(frozen=True)
class Layout:
    """What one model call consists of besides the references.

    Attributes:
        text: number of text tokens.
        height, width: of the latent.
        patch: side of an image token in latent pixels.
        pictures: number of tokens of each Kontext picture; these stand last.
        images: for each row of the batch, which image of the latent it is; hosts repeat images in one call (with the
            prompt, without it) or call some of them only.
        masks: for each row which mask of a region it reads, modulo their number; None = that of its image.
    """

    text: int
    height: int
    width: int
    patch: int = 2
    pictures: tuple[int, ...] = ()
    images: tuple[int, ...] = (0,)
    masks: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        return -(-self.height // self.patch)

    @property
    def columns(self) -> int:
        return -(-self.width // self.patch)

    @property
    def image(self) -> int:
        return self.rows * self.columns

    @property
    def extra(self) -> int:
        """The tokens of all Kontext pictures."""
        return sum(self.pictures)


class StepWeights:
    """Plans of attention for each block of one model call, made on demand.

    Everything is computed on the CPU, where reading a number does not wait for the GPU.

    Args:
        active: references in the order of their tokens, each with its weight at this step, not 0 for all.
        layout: of the call.
        device: where attention runs.
        track: keep references, text, image and Kontext pictures apart, so that their shares can be counted.
        regions: keeps regions on the token grid from one step to the next.
        kept: the references' keys are those of an earlier step, and they ask nothing themselves.
        pictures: what weighs Kontext pictures, with its weight at this step (0 too); the first that names one counts.
    """

    def __init__(
        self,
        active: Active,
        layout: Layout,
        device: torch.device | str,
        track: bool = False,
        regions: dict[tuple[Reference, Layout], Tensor] | None = None,
        kept: bool = False,
        pictures: Active = (),
    ) -> None:
        self.active = active
        self.layout = layout
        self.device = device
        self.track = track
        self.references = sum(reference.length for reference, _ in active)
        self.length = self.references + layout.text + layout.image + layout.extra
        self.asking = 0 if kept else self.references  # queries of the references, which come first
        self.pictures = pictures
        self._regions = {} if regions is None else regions
        self._plans: dict[tuple[int, tuple[Factor, ...]], GroupPlan] = {}

    @property
    def is_plain(self) -> bool:
        """Whether attention without any weights does the same."""
        numbers = range(1, len(self.layout.pictures) + 1)
        pictures = (found for number in numbers if (found := weight_of_picture(self.pictures, number)))
        return not self.track and all(one.is_plain(weight) for one, weight in (*self.active, *pictures))

    def fits(self, queries: int, keys: int) -> bool:
        """Whether an attention has this layout.

        Hosts may keep the keys of Kontext pictures and leave out their queries.
        """
        own = self.length - self.references + self.asking
        return keys == own and queries in (own, own - self.layout.extra)

    def plan(self, kind: str, index: int, queries: int | None = None, heads: int = HEAD_COUNT) -> GroupPlan:
        """The plan for one block, e.g. ("single", 3), and its first `queries` queries; equal blocks share one."""
        queries = self.length - self.references + self.asking if queries is None else queries
        factors = tuple(reference.blocks.factor(kind, index, heads) for reference, _ in self.active)
        key = (queries, factors)
        if key not in self._plans:
            self._plans[key] = prepare_groups(self.groups(factors, queries), self.length, self.device)
        return self._plans[key]

    def groups(self, factors: tuple[Factor, ...], queries: int) -> list[GroupSpec]:
        """(start, stop, log weight, share) of every part of every reference, the text if tracked, Kontext pictures."""
        groups: list[GroupSpec] = []
        start = 0
        # Groups with the same tensors are joined, which saves kernels.
        shared: dict[tuple, tuple[LogWeight, Share]] = {}
        for (reference, weight), factor in zip(self.active, factors, strict=True):
            # Where an image's weight is 0 the reference is not there, for tokens of other references neither.
            acting = tuple(each > 0 for each in weight) if isinstance(weight, tuple) else None
            for part in reference.parts:
                factors_here = (weight, part.weight, factor)
                key = (id(reference.region_RYX), reference.response, factors_here, part.log_count, part.images)
                if key not in shared:
                    weight_bh1 = self._multiply(*factors_here)
                    shared[key] = self._weigh(part, reference, weight_bh1, queries, acting)
                groups.append((start, start + part.length, *shared[key]))
                start += part.length
        if self.track:
            groups.append((start, start + self.layout.text, 0.0))
        return groups + self._picture_groups(queries)

    def _picture_groups(self, queries: int) -> list[GroupSpec]:
        """A group for each Kontext picture that is weighed or tracked."""
        groups: list[GroupSpec] = []
        stop = self.references + self.layout.text + self.layout.image
        for number, length in enumerate(self.layout.pictures, 1):
            start, stop = stop, stop + length
            found = weight_of_picture(self.pictures, number)
            if found is not None and not found[0].is_plain(found[1]):
                groups.append((start, stop, *self._weigh_picture(*found, start, stop, queries)))
            elif self.track:
                groups.append((start, stop, 0.0))
        return groups

    def _weigh_picture(
        self, reference: Reference, weight: Weight, start: int, stop: int, queries: int
    ) -> tuple[LogWeight, Share]:
        """Log weight and share [b, 1, L] of the picture whose keys are `start` to `stop`.

        Its own queries read it as ever. All others are weighed, those of references and other pictures too: they would
        pass on to the image what they read. References read it with the region's mean, as the text does.
        """
        weight_b1 = self._multiply(weight, 1.0, 1.0)[:, 0]
        if reference.region_RYX is None:
            weight_bL = weight_b1.repeat(1, self.length - self.references + self.asking)
        else:
            region_RQ = self._region(reference)
            image_RI = region_RQ[:, self.layout.text : self.layout.text + self.layout.image]
            mean_RA = image_RI.mean(1, keepdim=True).expand(-1, self.asking)
            weight_bL = weight_b1 * torch.cat((mean_RA, region_RQ), dim=1)
        absent = self.references - self.asking  # keys without a query
        weight_bL[:, start - absent : stop - absent] = 1.0
        return _respond(weight_bL[:, None, :queries], reference.response)

    def _multiply(self, weight: Weight, part: float, factor: Factor) -> Tensor:
        """[1 or B, 1 or H, 1]: a weight for each image, times a factor for each head."""
        weights = _each(weight, self.layout.images) if isinstance(weight, tuple) else weight
        weight_b11 = (part * torch.tensor(weights, dtype=torch.float64).reshape(-1, 1, 1)).clamp(max=LARGEST)
        return (weight_b11 * torch.tensor(factor, dtype=torch.float64).reshape(1, -1, 1)).clamp(max=LARGEST).float()

    def _weigh(
        self, part: Part, reference: Reference, weight_bh1: Tensor, queries: int, images: tuple[bool, ...] | None
    ) -> tuple[LogWeight, Share]:
        """Log weight and share, numbers or [b, h, L]. Queries of the references themselves know the count only.

        Args:
            images: for which images the reference is there; None = all.
        """
        if reference.region_RYX is None and part.images is None and bool((weight_bh1 == 1).all()):
            return part.log_count, 1.0
        if reference.region_RYX is None:
            weight_bhQ = weight_bh1.expand(-1, -1, self.length - self.references)
        else:
            weight_bhQ = weight_bh1 * self._region(reference)[:, None]
        own_bhK = weight_bhQ.new_ones(*weight_bhQ.shape[:2], self.asking)
        weight_bhL = torch.cat((own_bhK, weight_bhQ), dim=2)[..., :queries]
        log_bhL, share_bhL = _respond(weight_bhL, reference.response)
        log_bhL = log_bhL + part.log_count
        for reads in filter(None, (part.images, images)):
            reads_B11 = torch.tensor(_each(reads, self.layout.images))[:, None, None]
            log_bhL = torch.where(reads_B11, log_bhL, -math.inf)
        return log_bhL, share_bhL

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
                region_RQ = region_RQ[torch.tensor(_each(range(len(region_RQ)), layout.masks or layout.images))]
            self._regions[key] = region_RQ
        return self._regions[key]


def _each(values: Sequence[T], rows: Sequence[int]) -> list[T]:
    """The values of rows; they begin again where there are fewer."""
    return [values[row % len(values)] for row in rows]


def _respond(weight_bhL: Tensor, response: str) -> tuple[Tensor, Share]:
    """Log weight and share that a strength stands for."""
    if response == "even":
        return weight_bhL.clamp(min=1).log(), weight_bhL.clamp(max=1)
    return weight_bhL.log(), 1.0


def weight_of_picture(pictures: Active, number: int) -> tuple[Reference, Weight] | None:
    """What weighs this Kontext picture, counted from 1, and with which weight; None = nothing does."""
    return next((found for found in pictures if found[0].picture in (0, number)), None)
