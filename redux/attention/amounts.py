"""Log weights and shares of groups as they are given: checked, brought into rows, and which queries they leave out.

Shapes: B batch (or 1), H heads (or 1), L queries (or 1), n of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LogWeight = float | Tensor
Share = float | Tensor

# The log weight of a masked group, whose weight is 0. It is finite so that no sum or difference of logits can be NaN,
# and so large that exp() of anything beside it is exactly 0 in fp32.
MASKED = -1e30

MULTIPLE = 256  # readers are made so many or a multiple: kernels work in tiles, and some make a plan for each number
MOST = 0.75  # of the queries: from there on, all of them cost no more than taking some apart


def read_log_weight(
    log_weight: LogWeight, owner: int, device: torch.device | str | None, inspect: bool
) -> tuple[LogWeight, bool]:
    """The log weight as a group keeps it, and whether some query may give weight 0."""
    bounds = _bounds(log_weight, 0.0, f"Group {owner} has a log weight", inspect)
    if bounds is None:
        return _as_rows(log_weight, device, MASKED), True
    low, high = bounds
    if not high < math.inf:  # also true of NaN, which aminmax passes on
        raise ValueError(f"Group {owner} has a log weight of {high}; finite numbers or -inf (weight 0) are needed.")
    if low < high and high > MASKED:
        return _as_rows(log_weight, device, MASKED), low <= MASKED
    return max(high, MASKED), high <= MASKED


def read_share(share: Share, owner: int, device: torch.device | str | None, inspect: bool) -> Share:
    """The share as a group keeps it."""
    bounds = _bounds(share, 1.0, f"Group {owner} has a share", inspect)
    if bounds is None:
        return _as_rows(share, device, 0.0)
    for bound in bounds:
        if not 0.0 <= bound <= 1.0:
            raise ValueError(f"Group {owner} has a share of {bound:g}; numbers from 0 to 1 are needed.")
    return bounds[0] if bounds[0] == bounds[1] else _as_rows(share, device, 0.0)


def find_readers(log_weight: LogWeight, share: Share, device: torch.device | str | None) -> Tensor | None:
    """The queries that any weight and share is for, int64 [n] and rising, n being a multiple of MULTIPLE.

    What is missing from that are others, for which the group counts nothing as ever. None where they are too many to
    be worth it, and where looking would wait for a device.
    """
    reads_L = torch.ones(1, dtype=torch.bool)
    for value, nothing in ((log_weight, MASKED), (share, 0.0)):
        if isinstance(value, Tensor) and value.ndim and value.numel():
            if value.device.type != "cpu":
                return None
            reads_L = reads_L & (value > nothing).reshape(-1, value.shape[-1]).any(0)
    count = max(MULTIPLE * -(-int(reads_L.sum()) // MULTIPLE), MULTIPLE)
    if count > MOST * len(reads_L):
        return None
    return (~reads_L).byte().argsort(stable=True)[:count].sort().values.to(device)


def _bounds(value: float | Tensor, empty: float, what: str, inspect: bool) -> tuple[float, float] | None:
    """Smallest and largest value, `empty` where there is none; None = a tensor that is not looked into."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return float(value), float(value)
    if value.ndim > 3:
        raise ValueError(
            f"{what} of shape {tuple(value.shape)}; a number, [queries], [batch, queries] or "
            "[batch, heads, queries] is needed."
        )
    if value.numel() == 0:
        return empty, empty
    if not inspect and value.device.type != "cpu":
        return None
    low, high = torch.stack(value.detach().aminmax()).tolist()
    return low, high


def _as_rows(value: float | Tensor, device: torch.device | str | None, lowest: float) -> Tensor:
    rows = torch.as_tensor(value).detach().to(device=device, dtype=torch.float32).clamp(min=lowest)
    return rows if rows.ndim == 3 else rows.reshape(-1, 1, rows.shape[-1])
