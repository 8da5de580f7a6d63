"""Log weights and shares of groups as they are given: checked, and brought into rows.

Shapes: B batch (or 1), H heads (or 1), L queries (or 1).
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
LARGEST = 1e38  # a weight that fp32 can hold; with an infinite one, a region's zero would be NaN


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
