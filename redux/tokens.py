"""The tokens of a reference: what the projector gives, and what can be done with it before FLUX reads it.

Shapes: B pictures, N tokens, D text width, R x C grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, log, prod
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pooling import Grid, pool_view, within
from .store import read_facts, write_tensors
from .tensor_files import open_files
from .typed import short

METADATA_KEY = "redux.tokens"
VERSION = 1


@dataclass(frozen=True)
class Part:
    """A run of tokens that belongs together: one reference, seen in one or (as tiles) several views.

    Attributes:
        grids: rows and columns of each view, in the order of the tokens.
        full_count: tokens of a whole reference at full resolution (729 for SigLIP so400m patch14-384); `normalize`
            lets the part count as much as so many.
        weight: factor of the strength, above 0, set where references are joined.
        images: which images of the batch read it, repeated over the batch; None = all.
    """

    grids: tuple[Grid, ...]
    full_count: int
    weight: float = 1.0
    images: tuple[bool, ...] | None = None

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

    @property
    def log_count(self) -> float:
        """Natural logarithm of what each token counts for every query, so that all count as much as `full_count`."""
        return log(self.full_count / self.length)

    @property
    def is_plain(self) -> bool:
        """Whether its tokens count as they are."""
        return self.full_count == self.length and self.weight == 1.0 and self.images is None

    def acts_like(self, other: Part) -> bool:
        """Whether each token of both counts the same for everybody."""
        counts_same = self.full_count * other.length == other.full_count * self.length
        return counts_same and (self.weight, self.images) == (other.weight, other.images)


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

    def check_finite(self) -> None:
        """Raises ValueError: there are tokens that are NaN or infinite, with which a whole picture would be black."""
        if not self.is_finite:
            raise ValueError("The reference has tokens that are NaN or infinite; encode its picture anew.")

    @property
    def is_finite(self) -> bool:
        """Whether all tokens that are read are numbers; those of the device "meta" have no values."""
        return self.tokens.is_meta or all(bool(row.isfinite().all()) for row in self.kept())

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
            ValueError: a side below 1, or no two whole numbers.
        """
        pair = hasattr(grid, "__len__") and len(grid) == 2
        if not pair or not all(isinstance(side, Integral) for side in grid):
            raise ValueError(
                f"A reference cannot be pooled to {short(repr(grid))}; two whole numbers (rows, columns) are needed."
            )
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
        while sum(prod(within(grid, side)) for grid in self.grids) > budget:
            side -= 1
        return self._pool(lambda grid: within(grid, side))

    def _pool(self, shrink: Callable[[Grid], Grid]) -> ReduxTokens:
        pooled = [pool_view(view_BND, cover_BN, grid, shrink(grid)) for view_BND, cover_BN, grid in self.by_view()]
        tokens = torch.cat([view_BND for view_BND, _ in pooled], dim=1)
        coverage = None if self.coverage is None else torch.cat([cover_BN for _, cover_BN in pooled], dim=1)
        parts = tuple(replace(part, grids=tuple(map(shrink, part.grids))) for part in self.parts)
        return replace(self, tokens=tokens, parts=parts, coverage=coverage)

    def by_view(self) -> list[tuple[Tensor, Tensor, Grid]]:
        """Tokens [B, n, D], coverage [B, n] and grid of each view."""
        lengths = [rows * columns for rows, columns in self.grids]
        cover_BN = self.tokens.new_ones(self.tokens.shape[:2], dtype=torch.float32)
        cover_BN = cover_BN if self.coverage is None else self.coverage
        views = zip(self.tokens.split(lengths, dim=1), cover_BN.split(lengths, dim=1), self.grids, strict=True)
        return list(views)

    def save(self, path: str | Path) -> None:
        """Write a new safetensors file, which no vision tower is needed to use again.

        It has the tensors `tokens` [B, N, D] and, with a mask, `coverage` [B, N]; the metadata key `redux.tokens` holds
        a JSON object with the format's version, the writer's version, the parts, `encoder` and `about`.

        Raises:
            FileExistsError: the file is there already; nothing is overwritten.
            OSError: it cannot be written.
        """
        tensors = {"tokens": self.tokens}
        if self.coverage is not None:
            tensors["coverage"] = self.coverage
        parts = [{"grids": part.grids, "full_count": part.full_count, "weight": part.weight} for part in self.parts]
        facts = {"encoder": self.encoder, "parts": parts, "about": dict(self.about)}
        write_tensors(path, tensors, METADATA_KEY, VERSION, facts)

    @classmethod
    def load(cls, path: str | Path) -> ReduxTokens:
        """Read a file of `save`.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
        """
        files = open_files(path)
        facts = read_facts(files, METADATA_KEY, VERSION, "a reference saved by Save Reference")
        try:
            with files.reader() as reader:
                tokens_BND = reader.read("tokens").clone()
                coverage_BN = reader.read("coverage").clone() if "coverage" in files.shapes else None
            if not tokens_BND.is_floating_point():
                raise ValueError(f"its tokens are {tokens_BND.dtype}")
            if not all(
                bool(torch.isfinite(each.float()).all()) for each in (tokens_BND, coverage_BN) if each is not None
            ):
                raise ValueError("it has values that are NaN or infinite")
            parts = tuple(_read_part(**part) for part in facts["parts"])
            return cls(tokens_BND, parts, coverage_BN, str(facts["encoder"]), dict(facts.get("about", {})))
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise ValueError(f"{files.path.name} is damaged ({reason}); save the reference again.") from error


def _read_part(grids: Any, full_count: Any, weight: Any, **_: Any) -> Part:
    return Part(tuple((int(rows), int(columns)) for rows, columns in grids), int(full_count), float(weight))
