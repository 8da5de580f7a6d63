"""References in CONDITIONING: the tokens stand before the text, a mark says what they are, a control object acts.

FLUX.1 gives all tokens of its text stream the same position, so standing first changes nothing, and it makes the keys
of each reference one contiguous slice. The mark travels among the entry's model conditions, which ComfyUI hands to
the control object with each model call of exactly this entry: that is how the object knows whose call it is, even
where ComfyUI lets a negative share the control of a positive.

Shapes: B images, N reference tokens, T text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.conds
import torch
from comfy.controlnet import ControlBase

from ...redux.control import Reference
from ...redux.influence import Recorder
from .control import MARK, ReduxControl

Conditioning = list[list[Any]]


@dataclass(frozen=True, eq=False)
class Mark:
    """The references of one conditioning entry in the order of their tokens, which come first in it.

    What was applied last stands first. The recorder is used in samplings whose graph draws an influence map.
    """

    references: tuple[Reference, ...]
    recorder: Recorder = field(default_factory=Recorder)

    @property
    def length(self) -> int:
        return sum(reference.length for reference in self.references)


def add_reference(conditioning: Conditioning, tokens_BND: torch.Tensor, reference: Reference) -> Conditioning:
    """A new conditioning whose every entry has the reference before what it had; nothing passed in is changed.

    Raises:
        ValueError: the text's width is not the tokens', or the conditioning is empty.
    """
    if not conditioning:
        raise ValueError("The conditioning is empty; connect a text encoder.")
    return [[_join(tokens_BND, text), _mark(options, reference)] for text, options in conditioning]


def find_mark(options: dict[str, Any]) -> Mark | None:
    """The mark of a conditioning entry, if it has references of ours."""
    carrier = options.get("model_conds", {}).get(MARK)
    return carrier.cond if carrier is not None else None


def _join(tokens_BND: torch.Tensor, text_BTD: torch.Tensor) -> torch.Tensor:
    if tokens_BND.shape[-1] != text_BTD.shape[-1]:
        raise ValueError(
            f"The reference has tokens of width {tokens_BND.shape[-1]} and the text of width {text_BTD.shape[-1]}; "
            "use a FLUX.1 text encoder, or a projector that fits this model."
        )
    batch = max(len(tokens_BND), len(text_BTD))
    if len(text_BTD) not in (1, batch) or len(tokens_BND) not in (1, batch):
        raise ValueError(
            f"The reference has {len(tokens_BND)} pictures and the conditioning {len(text_BTD)} texts; "
            "equal numbers, or one of either, are needed."
        )
    parts = [part.to(text_BTD).expand(batch, -1, -1) for part in (tokens_BND, text_BTD)]
    return torch.cat(parts, dim=1)


def _mark(options: dict[str, Any], reference: Reference) -> dict[str, Any]:
    before = find_mark(options)
    options = add_mark(options, (reference, *(before.references if before else ())))
    if "attention_mask" in options:
        options["attention_mask"] = _extend_mask(options["attention_mask"], reference.length)
    return options


def add_mark(options: dict[str, Any], references: Sequence[Reference]) -> dict[str, Any]:
    """A copy of an entry's options that says which references its first tokens are, with a control that acts on it."""
    options = options.copy()
    if not references:
        return options
    mark = Mark(tuple(references))
    options["model_conds"] = {**options.get("model_conds", {}), MARK: comfy.conds.CONDConstant(mark)}
    if not any(isinstance(control, ReduxControl) for control in _chain(options.get("control"))):
        control = ReduxControl()
        control.set_previous_controlnet(options.get("control"))
        options["control"] = control
    return options


def without_mark(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of an entry's options without its references; ControlNets of others stay."""
    options = options.copy()
    conds = {key: value for key, value in options.pop("model_conds", {}).items() if key != MARK}
    if conds:
        options["model_conds"] = conds
    if isinstance(options.get("control"), ReduxControl):
        options["control"] = options["control"].previous_controlnet
    if options.get("control") is None:
        options.pop("control", None)
        options.pop("control_apply_to_uncond", None)
    return options


def _chain(control: ControlBase | None) -> Iterator[ControlBase]:
    while control is not None:
        yield control
        control = control.previous_controlnet


def _extend_mask(mask_BQK: torch.Tensor, length: int) -> torch.Tensor:
    """Room for reference tokens in front of another node's attention mask, which leaves them free.

    A boolean mask becomes an additive one, since ComfyUI casts masks to the model's dtype; a large negative number
    stands for minus infinity, of which interpolation would make NaN.
    """
    if mask_BQK.dtype == torch.bool:
        mask_BQK = torch.where(mask_BQK, 0.0, -3e4)
    return torch.nn.functional.pad(mask_BQK, (length, 0, length, 0))
