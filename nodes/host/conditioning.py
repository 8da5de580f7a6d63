"""References in CONDITIONING: the tokens stand before the text, a control object says how they act."""

from __future__ import annotations

from typing import Any

import torch

Conditioning = list[list[Any]]


def prepend(conditioning: Conditioning, tokens_BND: torch.Tensor) -> Conditioning:
    """A new conditioning whose every entry has the reference tokens before its own; nothing passed in is changed.

    FLUX.1 gives all tokens of its text stream the same position, so standing first changes nothing, and it makes the
    keys of each reference one contiguous slice.
    """
    return [[_join(tokens_BND, text_BTD), options.copy()] for text_BTD, options in conditioning]


def _join(tokens_BND: torch.Tensor, text_BTD: torch.Tensor) -> torch.Tensor:
    if tokens_BND.shape[-1] != text_BTD.shape[-1]:
        raise ValueError(
            f"The reference has tokens of width {tokens_BND.shape[-1]} and the text of width {text_BTD.shape[-1]}; "
            "use a FLUX.1 text encoder, or a projector that fits this model."
        )
    batch = max(len(tokens_BND), len(text_BTD))
    parts = [part.to(text_BTD).expand(batch, -1, -1) for part in (tokens_BND, text_BTD)]
    return torch.cat(parts, dim=1)
