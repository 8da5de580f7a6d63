"""What an entry of a CONDITIONING says of its references, and how it reaches the model call.

A mark travels among the entry's model conditions, which ComfyUI hands to the control object with each model call of
exactly this entry: that is how the object knows whose call it is, even where ComfyUI lets a negative share the control
of a positive.

Shapes: B pictures, N reference tokens, T text tokens, D width.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import comfy.conds
import torch

from ...redux.influence import Influence, Recorder
from ...redux.reference import Reference

MARK = "redux_references"
log = logging.getLogger(__name__)

Area = tuple[int, ...]  # height, width, top and left, in latents


@dataclass(frozen=True, eq=False)
class Mark:
    """The references of one conditioning entry in the order of their tokens, which come before the text's.

    What was applied last stands first.

    Attributes:
        references: also those that weigh Kontext pictures, which have no tokens.
        tokens: of each reference, [1 or B, N, D].
        bare: the text was all zeros already when the last reference was applied.
        recorder: used in samplings whose graph draws an influence map.
    """

    references: tuple[Reference, ...]
    tokens: tuple[torch.Tensor, ...]
    bare: bool = False
    recorder: Recorder = field(default_factory=Recorder)

    @property
    def batch(self) -> int:
        return max(map(len, self.tokens))

    def influence(self, place: str | None = None) -> Influence | None:
        """What was recorded at a place of sampling, or at the last; reference 1 is the one applied first."""
        return self.recorder.result([one for one in self.references[::-1] if not one.is_picture], place)


def acts_like(one: Reference, other: Reference) -> bool:
    """Whether two references act in the same way, whatever their tokens are."""
    if one is other:
        return True
    pairs = ((getattr(one, item.name), getattr(other, item.name)) for item in fields(Reference))
    return all(_same(*pair) for pair in pairs)


def act_alike(ones: Sequence[Reference], others: Sequence[Reference]) -> bool:
    return len(ones) == len(others) and all(map(acts_like, ones, others))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one is other or torch.equal(one, other)
    return not isinstance(one, torch.Tensor) and not isinstance(other, torch.Tensor) and one == other


@dataclass(frozen=True, eq=False)
class Chunk:
    """One entry in a model call: `images` rows of the batch, perhaps an area of a canvas (height, width)."""

    mark: Mark
    images: int
    area: Area | None = None
    canvas: tuple[int, ...] | None = None


class Chunks(tuple[Chunk, ...]):
    """The entries of one model call, in the order of its rows."""

    @property
    def dtype(self) -> None:
        """ComfyUI asks for it when a condition reaches the model, which these do if no control took them out."""
        log.warning(
            "Redux: another node took the control away from a conditioning with a reference, which has no effect now; "
            "put Apply Redux behind that node."
        )
        raise AttributeError("dtype")


class MarkCondition(comfy.conds.CONDConstant):
    """A mark among the model conditions of an entry; entries whose references act alike may share a model call."""

    def __init__(self, cond: Mark, chunk: Chunk | None = None) -> None:
        super().__init__(cond)
        self.chunk = chunk or Chunk(cond, 1)

    def process_cond(self, batch_size: int, area: Any = None, **_: Any) -> MarkCondition:
        canvas = None if area is None else _canvas()
        chunk = Chunk(self.cond, batch_size, None if area is None else tuple(area), canvas)
        return MarkCondition(self.cond, chunk)

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, MarkCondition) and act_alike(self.cond.references, other.cond.references)

    def concat(self, others: Sequence[MarkCondition]) -> Chunks:
        return Chunks(condition.chunk for condition in (self, *others))


def _canvas() -> tuple[int, ...] | None:
    """Height and width of the latent that an area is cut from.

    ComfyUI tells a condition its area, but not the size of the whole, which only the function that asks knows.
    """
    x = sys._getframe(2).f_locals.get("x_in")
    return tuple(x.shape[2:]) if isinstance(x, torch.Tensor) else None
