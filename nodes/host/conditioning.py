"""References in CONDITIONING: a mark says what they are and holds their tokens, a control object acts.

The conditioning's own tensor stays the text, so that nodes which blend, join or scale texts do just that. The tokens
are put in front of it when the model is called (control.py): FLUX.1 gives all tokens of its text stream the same
position, so standing first changes nothing, and it makes the keys of each reference one contiguous slice.

Shapes: B images, N reference tokens, T text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ...redux.keeping import Quality
from ...redux.reference import Reference
from .control import ReduxControl, control_for
from .mark import MARK, Mark, MarkCondition

Conditioning = list[list[Any]]


def add_reference(conditioning: Conditioning, tokens_BND: torch.Tensor, reference: Reference) -> Conditioning:
    """A new conditioning whose every entry has the reference before what it had; nothing passed in is changed.

    Raises:
        ValueError: the text's width is not the tokens', or the conditioning is empty.
    """
    if not conditioning:
        raise ValueError("The conditioning is empty; connect a text encoder.")
    return [[text, _add(text, options, tokens_BND, reference)] for text, options in conditioning]


def weigh_pictures(conditioning: Conditioning, reference: Reference) -> Conditioning:
    """A new conditioning whose Kontext pictures are weighed, in all entries that have the one in question.

    Raises:
        ValueError: no entry has reference latents, or not so many.
    """
    counts = [len(options.get("reference_latents") or ()) for _, options in conditioning]
    most, number = max(counts, default=0), reference.picture or 0
    if most == 0:
        raise ValueError(
            "The conditioning has no reference latent to weigh; put Set Reference Latent before this node."
        )
    if number > most:
        raise ValueError(f"There is no reference latent {number} in the conditioning, which has {most}; 0 means all.")
    weighed = [count >= max(number, 1) for count in counts]
    return [
        [text, _add(text, options, text.new_zeros(1, 0, text.shape[-1]), reference) if has_it else options]
        for (text, options), has_it in zip(conditioning, weighed, strict=True)
    ]


def keep_references(conditioning: Conditioning, quality: Quality) -> Conditioning:
    """A new conditioning whose references are kept between steps; entries without any stay as they are."""
    return [[text, _keep(options, quality)] for text, options in conditioning]


def _keep(options: dict[str, Any], quality: Quality) -> dict[str, Any]:
    mark = find_mark(options)
    if mark is None:
        return options
    references = [replace(reference, keep=quality) for reference in mark.references]
    return add_mark(options, references, mark.tokens, mark.bare)


def find_mark(options: dict[str, Any]) -> Mark | None:
    """The mark of a conditioning entry, if it has references of ours."""
    carrier = options.get("model_conds", {}).get(MARK)
    return carrier.cond if carrier is not None else None


def _add(
    text_BTD: torch.Tensor, options: dict[str, Any], tokens_BND: torch.Tensor, reference: Reference
) -> dict[str, Any]:
    before = find_mark(options)
    _check(tokens_BND, text_BTD, before)
    held = current_tokens(text_BTD, before) if before else ()
    if before and before.references:
        reference = replace(reference, keep=before.references[0].keep)
    references = (reference, *(before.references if before else ()))
    return add_mark(options, references, (tokens_BND, *held), bare=not bool(text_BTD.any()))


def _check(tokens_BND: torch.Tensor, text_BTD: torch.Tensor, before: Mark | None) -> None:
    if tokens_BND.shape[-1] != text_BTD.shape[-1]:
        raise ValueError(
            f"The reference has tokens of width {tokens_BND.shape[-1]} and the text of width {text_BTD.shape[-1]}; "
            "use a FLUX.1 text encoder, or a projector that fits this model."
        )
    batch = max(len(text_BTD), before.batch if before else 1)
    if len(tokens_BND) != batch and 1 not in (len(tokens_BND), batch):
        raise ValueError(
            f"The reference has {len(tokens_BND)} pictures and the conditioning {batch} texts; "
            "equal numbers, or one of either, are needed."
        )


def current_tokens(text_BTD: torch.Tensor, mark: Mark) -> tuple[torch.Tensor, ...]:
    """The mark's tokens, or zeros if its text became zeros: ConditioningZeroOut means all that it conditions."""
    if mark.bare or bool(text_BTD.any()):
        return mark.tokens
    return tuple(torch.zeros_like(tokens) for tokens in mark.tokens)


def add_mark(
    options: dict[str, Any], references: Sequence[Reference], tokens: Sequence[torch.Tensor], bare: bool = False
) -> dict[str, Any]:
    """A copy of an entry's options with these references alone, and a control that acts on them."""
    options = options.copy()
    if not references:
        return options
    mark = Mark(tuple(references), tuple(tokens), bare)
    options["model_conds"] = {**options.get("model_conds", {}), MARK: MarkCondition(mark)}
    previous = options.get("control")
    while isinstance(previous, ReduxControl):
        previous = previous.previous_controlnet
    options["control"] = control_for(mark.references, previous)
    return options


def without_mark(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of an entry's options without its references; ControlNets of others stay."""
    options = options.copy()
    conds = {key: value for key, value in options.pop("model_conds", {}).items() if key != MARK}
    if conds:
        options["model_conds"] = conds
    while isinstance(options.get("control"), ReduxControl):
        options["control"] = options["control"].previous_controlnet
    if options.get("control") is None:
        options.pop("control", None)
        options.pop("control_apply_to_uncond", None)
    return options
