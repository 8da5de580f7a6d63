"""The context of a model call: the tokens of acting references, then the text.

Shapes: R rows of the call's batch, B pictures, N reference tokens, T text tokens, D width, Q and K tokens of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .mark import Chunks

Row = tuple[int, int]  # which chunk of the call, and which image of the latent


def join_tokens(
    context_RTD: torch.Tensor,
    chunks: Chunks,
    rows: Sequence[Row],
    acting: Sequence[int],
    place: Callable[[torch.Tensor], torch.Tensor] = lambda tokens: tokens,
) -> torch.Tensor:
    """The context with the tokens of the references `acting` before it.

    Where the text of a row is all zeros, its tokens are too, unless it was so from the first: ConditioningZeroOut
    means all that a conditioning says.

    Args:
        rows: what each row of the context is.
        place: brings tokens to the context's device and dtype.
    """
    parts = [_tokens(chunks, rows, index, place) for index in acting]
    tokens_RND = torch.cat([part_RND.expand(len(rows), -1, -1) for part_RND in parts], dim=1)
    bare = [chunks[chunk].mark.bare for chunk, _ in rows]
    if not all(bare):
        told_R = context_RTD.flatten(1).any(1)
        if any(bare):
            told_R = told_R | torch.tensor(bare, device=context_RTD.device)
        tokens_RND = tokens_RND * told_R[:, None, None]
    return torch.cat((tokens_RND, context_RTD), dim=1)


def _tokens(
    chunks: Chunks, rows: Sequence[Row], index: int, place: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """[1 or R, N, D] of one reference."""
    values = [chunk.mark.tokens[index] for chunk in chunks]
    if all(value is values[0] for value in values) and len(values[0]) == 1:
        return place(values[0])
    return torch.stack([place(values[chunk])[image % len(values[chunk])] for chunk, image in rows])


def extend_mask(mask_BQK: torch.Tensor, length: int) -> torch.Tensor:
    """Room for reference tokens in front of another node's attention mask, which leaves them free.

    A boolean mask becomes an additive one, since ComfyUI casts masks to the model's dtype; a large negative number
    stands for minus infinity, of which interpolation would make NaN.
    """
    if mask_BQK.dtype == torch.bool:
        mask_BQK = torch.where(mask_BQK, 0.0, -3e4)
    return torch.nn.functional.pad(mask_BQK, (length, 0, length, 0))
