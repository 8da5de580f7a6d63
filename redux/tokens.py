"""The tokens of a reference: what the projector gives, and what can be done with it before FLUX reads it.

Shapes: B pictures, N tokens, D text width, R x C grid; r x c pooled grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """A run of tokens that belongs together: one reference, seen in one or (as tiles) several views.

    Attributes:
        grids: rows and columns of each view, in the order of the tokens.
        full_count: tokens of a whole reference at full resolution (729 for SigLIP so400m patch14-384); `normalize`
            lets the part count as much as so many.
        weight: factor of the strength, above 0, set where references are joined.
    """

    grids: tuple[Grid, ...]
    full_count: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.grids or min(self.full_count, *(side for grid in self.grids for side in grid)) < 1:
            raise ValueError(
                f"A reference has the grids {self.grids} and {self.full_count} tokens when whole; at least one grid, "
                "and numbers from 1 up, are needed."
            )
        if not (self.weight > 0 and isfinite(self.weight)):
            raise ValueError(f"A reference has the weight {self.weight:g}; a number above 0 is needed.")

    @property
    def length(self) -> int:
        return sum(map(prod, self.grids))


@dataclass(frozen=True, eq=False)
class ReduxTokens:
    """A reference as FLUX reads it; immutable.

    Attributes:
        tokens: [B, N, D], one row of tokens a picture.
        parts: what the tokens are, in order; their lengths sum to N.
        coverage: [B, N] in 0..1, how much of a token's patch is to be read, 0 where the token is dropped; None = all.
        encoder: names the weights that made the tokens; tokens of different encoders do not mix. "" = unknown.
        about: where the tokens come from, JSON values (fit, size of the picture, ...); read by people only.
    """

    tokens: Tensor
    parts: tuple[Part, ...]
    coverage: Tensor | None = None
    encoder: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3 or self.tokens.shape[1] != sum(part.length for part in self.parts):
            raise ValueError(
                f"Reference tokens of shape {tuple(self.tokens.shape)} do not fit the grids {self.grids}; "
                "[pictures, tokens, width] with one token for each cell is needed."
            )
        if self.coverage is not None and self.coverage.shape != self.tokens.shape[:2]:
            raise ValueError(
                f"The coverage of shape {tuple(self.coverage.shape)} does not fit {tuple(self.tokens.shape[:2])}."
            )

    @property
    def grids(self) -> tuple[Grid, ...]:
        return tuple(grid for part in self.parts for grid in part.grids)

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
    def full_count(self) -> int:
        return sum(part.full_count for part in self.parts)

    @property
    def num_pictures(self) -> int:
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        return self.tokens.shape[2]

    def kept(self) -> list[Tensor]:
        """The tokens of each picture without the dropped ones: B tensors [n_b, D]."""
        return [torch.cat(parts) for parts in self.kept_parts()]

    def kept_parts(self) -> list[list[Tensor]]:
        """The same, each part apart: for each picture one tensor [n_bp, D] a part."""
        lengths = [part.length for part in self.parts]
        rows = [list(tokens_ND.split(lengths)) for tokens_ND in self.tokens]
        if self.coverage is None:
            return rows
        covers = [cover_N.split(lengths) for cover_N in self.coverage]
        return [
            [part_ND[cover_N > 0] for part_ND, cover_N in zip(row, cover, strict=True)]
            for row, cover in zip(rows, covers, strict=True)
        ]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ReduxTokens:
        """The same reference elsewhere or in another dtype; coverage stays in fp32."""
        coverage = None if self.coverage is None else self.coverage.to(device=device)
        return replace(self, tokens=self.tokens.to(device=device, dtype=dtype), coverage=coverage)

    def pool(self, grid: Grid) -> ReduxTokens:
        """Average each view by area to rows x columns; a side that is smaller already stays as it is.

        A pooled token is the mean of the tokens under it, weighted by area times coverage, so dropped tokens have no
        say in it; where nothing is covered it is dropped itself.

        Raises:
            ValueError: a side below 1.
        """
        rows, columns = grid
        if rows < 1 or columns < 1:
            raise ValueError(f"A reference cannot be pooled to {rows} x {columns} tokens; 1 x 1 is the least.")
        return self._pool(lambda grid: (min(rows, grid[0]), min(columns, grid[1])))

    def pool_to(self, budget: int) -> ReduxTokens:
        """Pool until a picture has at most `budget` tokens: every view to the same longest side, its aspect kept.

        Raises:
            ValueError: fewer tokens than views.
        """
        if budget < len(self.grids):
            raise ValueError(f"A budget of {budget} tokens is too small for {len(self.grids)} views of the picture.")
        side = max(max(grid) for grid in self.grids)
        while sum(prod(_within(grid, side)) for grid in self.grids) > budget:
            side -= 1
        return self._pool(lambda grid: _within(grid, side))

    def _pool(self, shrink: Callable[[Grid], Grid]) -> ReduxTokens:
        pooled = [_pool_view(view_BND, cover_BN, grid, shrink(grid)) for view_BND, cover_BN, grid in self.views()]
        tokens = torch.cat([view_BND for view_BND, _ in pooled], dim=1)
        coverage = None if self.coverage is None else torch.cat([cover_BN for _, cover_BN in pooled], dim=1)
        parts = tuple(replace(part, grids=tuple(map(shrink, part.grids))) for part in self.parts)
        return replace(self, tokens=tokens, parts=parts, coverage=coverage)

    def views(self) -> list[tuple[Tensor, Tensor, Grid]]:
        """Tokens [B, n, D], coverage [B, n] and grid of each view."""
        lengths = [rows * columns for rows, columns in self.grids]
        cover_BN = self.tokens.new_ones(self.tokens.shape[:2], dtype=torch.float32)
        cover_BN = cover_BN if self.coverage is None else self.coverage
        views = zip(self.tokens.split(lengths, dim=1), cover_BN.split(lengths, dim=1), self.grids, strict=True)
        return list(views)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; see `redux.store.save_tokens`."""
        from .store import save_tokens

        save_tokens(self, path)

    @classmethod
    def load(cls, path: str | Path) -> ReduxTokens:
        """Read a file of `save`; see `redux.store.load_tokens`."""
        from .store import load_tokens

        return load_tokens(path)


def _pool_view(tokens_BND: Tensor, cover_BN: Tensor, grid: Grid, small: Grid) -> tuple[Tensor, Tensor]:
    """One view pooled to a smaller grid: tokens [B, r * c, D] and coverage [B, r * c]."""
    if small == grid:
        return tokens_BND, cover_BN
    down_rR = overlap(grid[0], small[0], tokens_BND.device)
    across_cC = overlap(grid[1], small[1], tokens_BND.device)

    def average(values_BNX: Tensor) -> Tensor:
        values_BRCX = values_BNX.unflatten(1, grid)
        return torch.einsum("rR,cC,bRCx->brcx", down_rR, across_cC, values_BRCX).flatten(1, 2)

    pooled_cover = average(cover_BN[..., None])
    pooled = average(tokens_BND.float() * cover_BN[..., None]) / pooled_cover.clamp(min=1e-12)
    return pooled.to(tokens_BND.dtype), pooled_cover[..., 0].clamp(max=1)  # sums exceed it by the last bit


def _within(grid: Grid, side: int) -> Grid:
    """A grid of the same aspect whose longer side is at most `side`."""
    longest = max(side, *grid)
    return max(1, round(grid[0] * side / longest)), max(1, round(grid[1] * side / longest))


def overlap(length: int, small: int, device: torch.device | str | None = None) -> Tensor:
    """[small, length]: which share of each of `small` equal intervals is covered by each of `length` equal ones.

    Counted in whole steps of 1 / (small * length), so that intervals that only touch share exactly nothing.
    """
    edges_s, edges_L = torch.arange(small + 1) * length, torch.arange(length + 1) * small
    right = torch.minimum(edges_s[1:, None], edges_L[None, 1:])
    left = torch.maximum(edges_s[:-1, None], edges_L[None, :-1])
    return ((right - left).clamp(min=0) / length).to(device, torch.float32)


def check_alike(references: Sequence[ReduxTokens], doing: str) -> None:
    """Raises ValueError unless there are references, all of as many pictures, of one width and of one encoder."""
    if not references:
        raise ValueError(f"There are no references to {doing}; at least one is needed.")
    first = references[0]
    for other in references[1:]:
        if (other.num_pictures, other.width) != (first.num_pictures, first.width):
            raise ValueError(
                f"References of {first.num_pictures} and {other.num_pictures} pictures, widths {first.width} and "
                f"{other.width}, are there to {doing}; both numbers must be equal."
            )
    encoders = list(dict.fromkeys(reference.encoder for reference in references if reference.encoder))
    if len(encoders) > 1:
        raise ValueError(
            f"References of two encoders ({encoders[0]}, {encoders[1]}) are there to {doing}; one is needed."
        )


def cat_tokens(
    references: Sequence[ReduxTokens], merge: Callable[[Sequence[ReduxTokens]], tuple[Part, ...]]
) -> ReduxTokens:
    """References one after the other in the sequence, `merge` says as which parts; device and dtype of the first."""
    first = references[0]
    references = [reference.to(first.tokens.device, first.tokens.dtype) for reference in references]
    coverage = None
    if any(reference.coverage is not None for reference in references):
        coverage = torch.cat([cover_BN for reference in references for _, cover_BN, _ in reference.views()], dim=1)
    tokens = torch.cat([reference.tokens for reference in references], dim=1)
    return ReduxTokens(tokens, merge(references), coverage, common_encoder(references))


def common_encoder(references: Sequence[ReduxTokens]) -> str:
    """The name of the encoder that made all of them; "" where that is not known of each."""
    names = {reference.encoder for reference in references}
    return names.pop() if len(names) == 1 else ""
