"""References whose keys and values are kept between the steps of a sampling: which model calls are full, and whose.

`redux.keeping` says what is kept and when; here it meets ComfyUI, where a step may be several calls (areas, prompt and
negative), a call may be left out (step caches), and other packs may call the model in ways that keeping cannot follow.
Then the references are computed in every step again, and one line says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management as memory
import torch
from torch import Tensor

from ...redux.keeping import BLOCK, SAME_STEP, KeptKeys, Quality, bytes_needed, position_of
from ...redux.reference import Reference
from .session import Session

FLUX_BLOCKS, FLUX_HEADS, FLUX_HEAD_DIM = 57, 24, 128
MARGIN = 1.2  # of the memory that is free, so much more than what is kept must be there


def quality_of(references: Sequence[Reference]) -> Quality:
    """What a call with these references does: exact if one of them is to be exact, else as the first says."""
    qualities = {reference.keep for reference in references}
    return "exact" if not qualities or "exact" in qualities else references[0].keep


def memory_of(references: Sequence[Reference], itemsize: int) -> int:
    """Bytes that FLUX.1 needs to keep these references, for one image."""
    if quality_of(references) == "exact":
        return 0
    tokens = sum(reference.length for reference in references)
    return bytes_needed(FLUX_BLOCKS, 1, FLUX_HEADS, tokens, FLUX_HEAD_DIM, itemsize)


@dataclass
class KeptCall:
    """A model call with kept references: a full one fills the store, another reads it.

    Attributes:
        tokens: how many tokens of references there are.
        rows: which rows of the batch that the store was filled for these are; None = all.
    """

    keeper: Keeper
    store: KeptKeys
    full: bool
    sigma: float
    tokens: int
    rows: list[int] | None = None

    def begin(self, rows: Sequence[int], count: int) -> None:
        """The call of these rows, of so many that belong together, begins."""
        self.rows = None if list(rows) == list(range(count)) else list(rows)
        if self.full and self.rows is not None:
            self.keeper.give_up("another node calls the model for single images of a batch")

    def write(self, block: BLOCK, k_BHKD: Tensor, v_BHKD: Tensor) -> None:
        """Leave the keys and values of the references, which come first, if there is room."""
        if self.full and not self.keeper.given_up and self.keeper.has_room(self.store, k_BHKD, self.tokens):
            self.store.put(block, k_BHKD[:, :, : self.tokens], v_BHKD[:, :, : self.tokens])

    def read(self, block: BLOCK) -> tuple[Tensor, Tensor]:
        kept = self.store.get(block)
        return kept if self.rows is None else (kept[0][self.rows], kept[1][self.rows])

    def end(self) -> None:
        """The call is done; a step cache may have left out all of it, or all blocks but the first."""
        if not self.full or self.keeper.given_up:
            return
        if self.store.written >= self.keeper.blocks:
            self.store.end(self.sigma)
        elif self.store.written == 0 or self.store.blocks >= self.keeper.blocks:
            self.store.undo()
        else:
            self.keeper.give_up(f"only {self.store.written} of the model's {self.keeper.blocks} blocks were seen")


class Keeper:
    """The stores of one control in one sampling of a model with so many blocks, one for each kind of call."""

    def __init__(self, session: Session, blocks: int) -> None:
        self.session = session
        self.blocks = blocks
        self.given_up = False
        self._stores: dict[Hashable, KeptKeys] = {}
        self._firsts: dict[Hashable, Tensor] = {}  # the latent of each kind's first call
        self._sigmas: Tensor | None = None
        self._levels: list[float] = []

    def call(
        self, key: Hashable, references: Sequence[Reference], x: Tensor, t: Tensor, options: dict[str, Any]
    ) -> KeptCall | None:
        """How a call of this kind is to be made; None = exactly, as if nothing were kept.

        Args:
            key: what must be the same for two calls to read one store: entries, references, sizes, part of the picture.
            x, t: the latent and the noise level of the step.
            options: the transformer options of the call.
        """
        quality = quality_of(references)
        if quality == "exact" or self.given_up:
            return None
        sigmas = options.get("sample_sigmas")
        if sigmas is None:
            self.give_up("this sampler does not tell its steps")
            return None
        if sigmas is not self._sigmas:  # they are on the GPU: read once for a sampling, not in every call
            self._sigmas, self._levels = sigmas, sigmas.tolist()
        sigma = float(t.flatten()[0])
        position, steps = position_of(sigma, self._levels), len(self._levels) - 1
        store = self._stores.setdefault(key, KeptKeys())
        full = store.is_due(quality, position, sigma, steps)
        if not full and store.fulls == 1 and abs((store.position or 0.0) - position) <= SAME_STEP:
            # The first step again. Guidance asks for the same latent in another way, which is then computed exactly;
            # another latent is another part of the picture. Samplers that look twice do so at later steps.
            if torch.equal(self._firsts[key], x):
                return None
            self.give_up("the model is called several times in one step, perhaps for tiles of the picture")
            return None
        if full:
            self._firsts.setdefault(key, x)
            store.begin(position)
        return KeptCall(self, store, full, sigma, sum(reference.length for reference in references))

    def has_room(self, store: KeptKeys, k_BHKD: Tensor, tokens: int) -> bool:
        """Whether what the first block leaves will fit for all; in half the memory if need be."""
        if store.blocks:  # also of an earlier full step, whose place is taken
            return True
        batch, heads, _, head_dim = k_BHKD.shape
        needed = bytes_needed(self.blocks, batch, heads, tokens, head_dim, k_BHKD.element_size())
        free = memory.get_free_memory(k_BHKD.device)
        if free > MARGIN * needed:
            return True
        store.half = k_BHKD.element_size() > 1
        if free > MARGIN * needed / k_BHKD.element_size():
            return True
        self.give_up(f"{needed / 2**20:.0f} MB are needed and {free / 2**20:.0f} MB of memory are free")
        return False

    def give_up(self, reason: str) -> None:
        if not self.given_up:
            self.given_up = True
            self._stores.clear()
            self._firsts.clear()
            self.session.note(f"references are computed in every step and not kept, because {reason}")
