"""Keys and values in runs that lie one behind the other without having been concatenated.

Shapes: B batch, H heads, K keys, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .groups import Group

KeysAndValues = tuple[Tensor, Tensor]


class KeyRuns:
    """Runs of keys and values [B, H, K, D], e.g. those kept from an earlier step and those of this one."""

    def __init__(self, *runs: KeysAndValues) -> None:
        self.runs = runs
        self.stops = [sum(k_BHKD.shape[2] for k_BHKD, _ in runs[: index + 1]) for index in range(len(runs))]

    @property
    def num_keys(self) -> int:
        return self.stops[-1]

    def take(self, start: int, stop: int) -> KeysAndValues:
        """Views of the keys start..stop, which lie in one run."""
        for (k_BHKD, v_BHKD), end in zip(self.runs, self.stops, strict=True):
            if stop <= end:
                first = end - k_BHKD.shape[2]
                keys = slice(start - first, stop - first)
                return k_BHKD[:, :, keys], v_BHKD[:, :, keys]
        raise IndexError(f"There are {self.num_keys} keys, not {stop}.")

    def concatenated(self) -> KeysAndValues:
        if len(self.runs) == 1:
            return self.runs[0]
        keys, values = zip(*self.runs, strict=True)
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def split(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The groups, split where one run ends and the next begins."""
        for border in self.stops[:-1]:
            groups = [
                piece
                for group in groups
                for piece in (
                    (replace(group, stop=border), replace(group, start=border))
                    if group.start < border < group.stop
                    else (group,)
                )
            ]
        return groups
