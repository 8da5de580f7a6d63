"""The tokens of a reference: what the projector gives, and what can be done with it before FLUX reads it.

Shapes: B pictures, N tokens, D text width, R x C grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ReduxTokens:
    """A reference as FLUX reads it.

    Attributes:
        tokens: [B, N, D], one row of tokens a picture.
        grids: rows and columns of each view of the picture, in the order of the tokens; the products sum to N.
        full_count: tokens of a whole reference at full resolution (729 for SigLIP so400m patch14-384), with which
            `normalize` compares. It grows when references are joined.
        coverage: [B, N] in 0..1, how much of a token's patch is to be read, 0 where the token is dropped; None = all.
        encoder: names the weights that made the tokens; tokens of different encoders do not mix.
    """

    tokens: Tensor
    grids: tuple[Grid, ...]
    full_count: int
    coverage: Tensor | None = None
    encoder: str = ""

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.tokens.shape[1] != sum(map(prod, self.grids)):
            raise ValueError(
                f"Reference tokens of shape {tuple(self.tokens.shape)} do not fit the grids {self.grids}; "
                "[pictures, tokens, width] with one token for each cell is needed."
            )
        if self.coverage is not None and self.coverage.shape != self.tokens.shape[:2]:
            raise ValueError(
                f"The coverage of shape {tuple(self.coverage.shape)} does not fit {tuple(self.tokens.shape[:2])}."
            )

    @property
    def grid(self) -> Grid:
        """Rows and columns.

        Raises:
            ValueError: the reference consists of several views (tiles, or joined references).
        """
        if len(self.grids) != 1:
            raise ValueError(f"This reference has {len(self.grids)} grids {self.grids}; use `grids`.")
        return self.grids[0]

    @property
    def num_pictures(self) -> int:
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        return self.tokens.shape[2]

    def kept(self) -> list[Tensor]:
        """The tokens of each picture without the dropped ones: B tensors [n_b, D]."""
        if self.coverage is None:
            return list(self.tokens)
        return [tokens_ND[cover_N > 0] for tokens_ND, cover_N in zip(self.tokens, self.coverage, strict=True)]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ReduxTokens:
        """The same reference elsewhere or in another dtype; coverage stays in fp32."""
        coverage = None if self.coverage is None else self.coverage.to(device=device)
        return replace(self, tokens=self.tokens.to(device=device, dtype=dtype), coverage=coverage)


def cat_views(views: Sequence[ReduxTokens], full_count: int) -> ReduxTokens:
    """Several views of the same pictures as one reference with `full_count` tokens' influence.

    Raises:
        ValueError: no views, or views of different pictures, widths or encoders.
    """
    if not views:
        raise ValueError("There are no references to put together; at least one is needed.")
    first = views[0]
    for other in views[1:]:
        if (other.num_pictures, other.width) != (first.num_pictures, first.width):
            raise ValueError(
                f"References of {first.num_pictures} x {first.width} and {other.num_pictures} x {other.width} "
                "(pictures x width) cannot be put together; both numbers must be equal."
            )
        if other.encoder != first.encoder:
            raise ValueError("References of two different encoders cannot be put together; encode both with one.")
    coverage = None
    if any(view.coverage is not None for view in views):
        covers = [
            v.tokens.new_ones(v.tokens.shape[:2], dtype=torch.float32) if v.coverage is None else v.coverage
            for v in views
        ]
        coverage = torch.cat(covers, dim=1)
    tokens = torch.cat([view.tokens for view in views], dim=1)
    grids = tuple(grid for view in views for grid in view.grids)
    return ReduxTokens(tokens, grids, full_count, coverage, first.encoder)
