"""One model call with references: which of its rows are which image, and their weights around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...redux.reference import Reference
from ...redux.step_weights import Active, Layout, weight_of_picture
from .context import Row
from .keep import KeptCall
from .mark import Chunks
from .override import AttentionCall, Record, running
from .suspects import suspects

if TYPE_CHECKING:
    from .control import ReduxControl


@dataclass(frozen=True)
class Acting:
    """What acts in a model call.

    Attributes:
        active: references with their weights at this step, their regions as this call's part of the picture has them.
        references: the same as the conditioning has them.
        rows: what each row of the batch is.
        row_masks: regions have a mask for each row, not for each image.
        kept: how the references' keys are kept between steps, if they are.
        pictures: what weighs Kontext pictures, as `active`, and also where the weight is 0.
    """

    active: Active
    references: tuple[Reference, ...]
    chunks: Chunks
    rows: tuple[Row, ...]
    row_masks: bool = False
    kept: KeptCall | None = None
    pictures: Active = ()

    @property
    def tokens(self) -> int:
        """How many tokens of references stand in the context."""
        if self.kept is not None and not self.kept.full:
            return 0
        return sum(reference.length for reference in self.references)


class WrappedCall:
    """Wraps BaseModel.apply_model for one model call.

    Args:
        x, context: as the control has seen them, by which rows that are called alone are known again.
    """

    def __init__(self, control: ReduxControl, acting: Acting, x: torch.Tensor, context: torch.Tensor) -> None:
        self.control = control
        self.acting = acting
        self.seen = x, context

    def __call__(
        self,
        executor: Any,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: Any = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        assert c_crossattn is not None  # the control has seen it
        options = transformer_options or {}
        patch = getattr(executor.class_obj.diffusion_model, "patch_size", 2)
        rows = self._rows(x, c_crossattn)
        pictures = self._pictures(kwargs.pop("ref_latents", None) or [], options)
        if pictures:
            kwargs["ref_latents"] = pictures
        layout = self._layout(x, c_crossattn, patch, pictures, rows)
        session, kept = self.control.session, self.acting.kept
        if not session.calls:
            session.suspects = suspects(executor.class_obj.diffusion_model, options)
        reads = kept is not None and not kept.full
        weights = self.control.weights(self.acting, layout, x.device, session.record, reads)
        if kept is None and weights.is_plain:  # the pictures that were weighed are gone, or were never there
            session.planned -= 1
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        records = self._records(rows, options) if session.record else ()
        call = AttentionCall(weights, session, records, options, self.control.blocks, kept)
        if kept is not None:
            kept.begin(rows, len(self.acting.rows))
        with running(call) as more:
            out = executor(x, t, c_concat, c_crossattn, control, {**options, **more}, **kwargs)
        if kept is not None:
            kept.end()
        positive = next((record.recorder for record in records if record.kind == 0), None)
        for chunk in self.acting.chunks:
            if chunk.mark.recorder is positive:
                session.live.look(chunk.mark.influence)
        return out

    def _pictures(self, pictures: list[torch.Tensor], options: dict[str, Any]) -> list[torch.Tensor]:
        """The Kontext pictures without those at the end that nothing reads, which move no other picture.

        With a cache of their keys (a patch of attention) all go or none, as it counts them.
        """
        found = [weight_of_picture(self.acting.pictures, number) for number in range(1, len(pictures) + 1)]
        gone = [weighs is not None and weighs[0].vanishes(weighs[1]) for weighs in found]
        if (options.get("patches") or {}).get("attn1_patch"):
            return [] if all(gone) else pictures
        while gone and gone[-1]:
            gone.pop()
        return pictures[: len(gone)]

    def _rows(self, x: torch.Tensor, context: torch.Tensor) -> list[int]:
        """Which of the rows that the control has seen these are; another node may call some of them alone."""
        count = len(self.acting.rows)
        if len(x) % count == 0:
            return [row % count for row in range(len(x))]
        found = [_find(row, *self.seen) for row in zip(x, context.expand(len(x), -1, -1), strict=True)]
        return [row % count if match is None else match for row, match in enumerate(found)]

    def _layout(
        self, x: torch.Tensor, context: torch.Tensor, patch: int, pictures: list[torch.Tensor], rows: Sequence[int]
    ) -> Layout:
        height, width = x.shape[-2:]
        return Layout(
            text=context.shape[1] - self.acting.tokens,
            height=height,
            width=width,
            patch=patch,
            pictures=tuple(-(-picture.shape[-2] // patch) * -(-picture.shape[-1] // patch) for picture in pictures),
            images=tuple(self.acting.rows[row][1] for row in rows),
            masks=tuple(rows) if self.acting.row_masks else None,
        )

    def _records(self, rows: Sequence[int], options: dict[str, Any]) -> list[Record]:
        """For each entry of the call who counts its rows, and as what: 0 = the positive."""
        chunks = self.acting.chunks
        kinds = options.get("cond_or_uncond") or [0] * len(chunks)
        owners = [self.acting.rows[row][0] for row in rows]
        return [
            Record(
                chunks[owner].mark.recorder, self.acting.references, kinds[owner % len(kinds)], _where(owners, owner)
            )
            for owner in sorted(set(owners))
        ]


def _where(values: Sequence[int], value: int) -> list[int]:
    return [index for index, other in enumerate(values) if other == value]


def _find(row: tuple[torch.Tensor, torch.Tensor], x: torch.Tensor, context: torch.Tensor) -> int | None:
    """The first row that is equal in both, or at least in the latent."""
    alike = [index for index, other in enumerate(x) if other.shape == row[0].shape and torch.equal(other, row[0])]
    whole = (index for index in alike if torch.equal(context[index % len(context)], row[1]))
    return next(whole, alike[0] if alike else None)
