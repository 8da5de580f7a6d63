"""Kept references: their keys and values from an earlier step of the sampling.

On a *full* step a reference's tokens stand in the sequence, and every block's attention leaves the keys and values that
it had for them here. On a *kept* step the tokens are not in the sequence at all, and attention reads what was left: the
tokens' own way through the blocks, nearly all that a reference costs, falls away. Keys and values change fast in the
first steps and hardly at all later, so the full steps lie early, in growing distances.

Shapes: B images, H heads, N reference tokens, D head size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .typed import short

Quality = Literal["exact", "close", "fast", "automatic"]
QUALITIES: tuple[Quality, ...] = ("exact", "close", "fast", "automatic")
GROWTH: dict[str, int] = {"close": 2, "fast": 3}  # of the distance between full steps; they begin with 0 and 1
TOLERANCE = 0.2  # "automatic": relative change of the values that may be foreseen since the last full step
SAME_STEP = 1e-4  # positions that are nearer than this are one
BLOCK = tuple[str, int]
FP8 = torch.float8_e4m3fn


def full_steps(quality: Quality, steps: int) -> tuple[int, ...]:
    """The full steps of a sampling: 0, 1, 2, 4, 8, 16 ... ("close") or 0, 1, 4, 13, 40 ... ("fast").

    Args:
        steps: how many the sampling has; "exact" has all of them, "automatic" begins with 0 and 1.

    Raises:
        ValueError: there is no such quality.
    """
    if quality not in QUALITIES:
        raise ValueError(f"There is no quality '{short(quality)}'; choose one of {', '.join(QUALITIES)}.")
    if quality == "exact":
        return tuple(range(steps))
    found, distance = [0, 1], 1 if quality == "close" else GROWTH.get(quality, steps)
    while quality != "automatic" and found[-1] + distance < steps:
        found.append(found[-1] + distance)
        distance *= GROWTH[quality]
    return tuple(step for step in found if step < steps)


def position_of(sigma: float, sigmas: Sequence[float]) -> float:
    """Where a noise level lies in a sampling: 2.0 is its third step, 2.5 half way to the fourth.

    Args:
        sigmas: the falling noise levels of all steps and the end, as a sampler has them.
    """
    rising = [-value for value in sigmas]
    step = min(max(bisect_right(rising, -sigma + 1e-6) - 1, 0), max(len(sigmas) - 2, 0))
    if len(sigmas) < 2 or sigmas[step] == sigmas[step + 1]:
        return float(step)
    return step + min(max((sigmas[step] - sigma) / (sigmas[step] - sigmas[step + 1]), 0.0), 1.0)


@dataclass
class KeptKeys:
    """The keys and values of the references in every block, as of the last full step.

    Attributes:
        position: of that step; None before the first.
        fulls: how many full steps there were.
        written: how many blocks the last one has put.
        half: hold them as fp8 numbers with a scale for each image and head, in half the memory.
    """

    half: bool = False
    position: float | None = None
    fulls: int = 0
    written: int = 0
    _blocks: dict[BLOCK, tuple[Tensor, ...]] = field(default_factory=dict)
    _before: tuple[float | None, int] = (None, 0)  # position and fulls of the full step before
    _rate: float | None = None  # relative change of the values for each unit of noise level
    _sigma: float = 0.0
    _changes: list[Tensor] = field(default_factory=list)

    def is_due(self, quality: Quality, position: float, sigma: float, steps: int) -> bool:
        """Whether a call at this position has to be full."""
        if self.position is None or quality == "exact" or position < self.position - SAME_STEP:
            return True
        if any(self.position + SAME_STEP < step <= position + SAME_STEP for step in full_steps(quality, steps)):
            return True
        if quality != "automatic":
            return False
        return self._rate is None or self._rate * abs(self._sigma - sigma) > TOLERANCE

    def begin(self, position: float) -> None:
        """A full step begins; what its blocks put replaces what is here."""
        self._before = self.position, self.fulls
        self.position = position
        self.fulls += 1
        self.written = 0
        self._changes = []

    def put(self, block: BLOCK, k_BHND: Tensor, v_BHND: Tensor) -> None:
        """Keep copies of a block's keys and values of the references."""
        self.written += 1
        if block in self._blocks:
            self._changes.append(_change(self.get(block)[1], v_BHND))
        parts = (k_BHND, v_BHND)
        self._blocks[block] = tuple(
            piece for part in parts for piece in (_to_fp8(part) if self.half else (part.clone(),))
        )

    def end(self, sigma: float) -> None:
        """The full step at this noise level is done: learn how fast the values change."""
        if self._changes and self._sigma != sigma:
            change = float(torch.stack([change.float().cpu() for change in self._changes]).mean())
            self._rate = change / abs(self._sigma - sigma)
        self._sigma = sigma

    def undo(self) -> None:
        """The full step has not run, or not through all blocks, as step caches do it: the next call is full."""
        self.position, self.fulls = self._before
        self._changes = []

    def get(self, block: BLOCK) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N, D] in the dtype they came in.

        Raises:
            KeyError: the block left nothing at the last full step.
        """
        kept = self._blocks[block]
        if len(kept) == 2:
            return kept[0], kept[1]
        keys, key_scale, values, value_scale = kept
        return keys.to(key_scale.dtype) * key_scale, values.to(value_scale.dtype) * value_scale

    @property
    def blocks(self) -> int:
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for parts in self._blocks.values() for part in parts)


def bytes_needed(blocks: int, batch: int, heads: int, tokens: int, head_dim: int, itemsize: int) -> int:
    """Memory of the kept keys and values: 511 MB for 729 tokens in the 57 blocks of FLUX.1 in bf16."""
    return 2 * blocks * batch * heads * tokens * head_dim * itemsize


def _change(before_BHND: Tensor, now_BHND: Tensor) -> Tensor:
    """Relative change; of all blocks the mean says how far the picture's reading of the references has moved."""
    now = now_BHND.float()
    return (now - before_BHND.float()).norm() / now.norm().clamp(min=1e-12)


def _to_fp8(x_BHND: Tensor) -> tuple[Tensor, Tensor]:
    scale_BH11 = (x_BHND.abs().amax(dim=(2, 3), keepdim=True).float() / torch.finfo(FP8).max).clamp(min=1e-12)
    return (x_BHND.float() / scale_BH11).to(FP8), scale_BH11.to(x_BHND.dtype)
