"""Masks as ComfyUI's nodes give them."""

from __future__ import annotations

import torch

from .report import note_on_node

NO_ALPHA = (64, 64)  # Load Image gives a black mask of this size for a picture without alpha


def read_mask(mask: torch.Tensor | None, what: str) -> torch.Tensor | None:
    """The mask, or None with a note on the node where it is what *Load Image* gives for a picture without alpha.

    Args:
        what: the input's name, for the note.
    """
    if mask is None or tuple(mask.shape[-2:]) != NO_ALPHA or bool(mask.any()):
        return mask
    note_on_node(f"The {what} is black, as Load Image gives it for a picture without alpha; read as no {what}.")
    return None
