"""Which keys weigh what: groups of keys, checked, cut and joined once for many attention calls.

Shapes: B batch (or 1), L queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LogWeight = float | Tensor
Group = tuple[int, int, LogWeight]

# The log weight that stands for weight 0. It is finite so that no sum or difference of logits can be NaN, and so
# large that exp() of anything beside it is exactly 0 in fp32.
NOTHING = -1e30


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys start..stop, which one kernel call serves.

    Attributes:
        log_weight: a number, or fp32 [B or 1, 1, L], never below NOTHING.
        owner: the group it belongs to; the number of groups stands for the rest. Of joined segments: the first's.
        can_vanish: some query gives it weight 0.
    """

    start: int
    stop: int
    log_weight: LogWeight
    owner: int
    can_vanish: bool = False

    @property
    def per_query(self) -> bool:
        return isinstance(self.log_weight, Tensor)


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """What `prepare_groups` found; may be used for any number of calls with the same layout of keys and queries.

    Attributes:
        tracked: segments in the order of the keys, those of different groups apart, as shares need them.
        joined: the fewest segments that give the same attention.
        rows: group, batch and number of queries of each log weight that is a tensor.
    """

    num_keys: int
    num_groups: int
    tracked: tuple[Segment, ...]
    joined: tuple[Segment, ...]
    rows: tuple[tuple[int, int, int], ...]

    @property
    def can_starve(self) -> bool:
        """Some query may have weight 0 for every key."""
        return all(segment.can_vanish for segment in self.joined)


def prepare_groups(
    groups: Sequence[Group], num_keys: int, device: torch.device | str | None = None, *, inspect: bool = True
) -> GroupPlan:
    """Check the groups, drop what has no weight, and join what one kernel call can serve.

    Args:
        groups: (start, stop, log_weight), half-open ranges of keys that do not overlap, in any order. log_weight is
            the natural logarithm of the weight, from -inf (weight 0) to any finite number: a number, or a tensor
            [L] (per query), [1, L] or [B, L] (per batch item and query). Keys in no group have weight 1.
        num_keys: how many keys there are.
        device: where the attention will run; tensors are brought there. None leaves them where they are.
        inspect: look into tensors that are not on the CPU, which waits for the device: a group without any weight
            is then dropped, one with the same weight everywhere treated as a number, NaN and +inf found. Tensors on
            the CPU are always inspected.

    Raises:
        ValueError: a range outside the keys, ranges that overlap, a log weight that is NaN, +inf or of another shape.
    """
    weights: dict[int, tuple[LogWeight, bool]] = {}  # a tensor that several groups share stays one tensor
    parts, rows = [], []
    groups = tuple(groups)  # keeps the tensors alive, so that their ids stay theirs
    for owner, (start, stop, log_weight) in enumerate(groups):
        if not 0 <= start <= stop <= num_keys:
            raise ValueError(f"Group {owner} covers keys {start} to {stop}, but there are keys 0 to {num_keys} only.")
        if id(log_weight) not in weights:
            weights[id(log_weight)] = _read_log_weight(log_weight, owner, device, inspect)
        if isinstance(log_weight, Tensor) and log_weight.ndim:
            rows.append((owner, log_weight.shape[0] if log_weight.ndim == 2 else 1, log_weight.shape[-1]))
        parts.append(Segment(start, stop, weights[id(log_weight)][0], owner, weights[id(log_weight)][1]))
    parts = sorted((part for part in parts if part.start < part.stop), key=lambda part: part.start)
    parts = _with_rest(parts, num_keys, len(groups))
    tracked = tuple(part for part in parts if part.per_query or part.log_weight > NOTHING)
    return GroupPlan(num_keys, len(groups), tracked, _join(tracked), tuple(rows))


def _read_log_weight(
    log_weight: LogWeight, owner: int, device: torch.device | str | None, inspect: bool
) -> tuple[LogWeight, bool]:
    """The log weight as a segment keeps it, and whether some query may give weight 0."""
    if not isinstance(log_weight, Tensor) or log_weight.ndim == 0:
        low = high = float(log_weight)
    elif log_weight.ndim > 2:
        raise ValueError(
            f"Group {owner} has a log weight of shape {tuple(log_weight.shape)}; "
            "a number, [queries] or [batch, queries] is needed."
        )
    elif log_weight.numel() == 0:
        low = high = 0.0
    elif inspect or log_weight.device.type == "cpu":
        low, high = torch.stack(log_weight.detach().aminmax()).tolist()
    else:
        return _as_rows(log_weight, device), True
    if not high < math.inf:  # also true of NaN, which aminmax passes on
        raise ValueError(f"Group {owner} has a log weight of {high}; finite numbers or -inf (weight 0) are needed.")
    if isinstance(log_weight, Tensor) and low < high and high > NOTHING:
        return _as_rows(log_weight, device), low <= NOTHING
    return max(high, NOTHING), high <= NOTHING


def _as_rows(log_weight: Tensor, device: torch.device | str | None) -> Tensor:
    rows = log_weight.detach().to(device=device, dtype=torch.float32).clamp(min=NOTHING)
    return rows.reshape(-1, 1, rows.shape[-1])


def _with_rest(parts: list[Segment], num_keys: int, rest: int) -> list[Segment]:
    """The segments with the keys between them filled in at weight 1."""
    filled: list[Segment] = []
    position = 0
    for part in parts:
        if part.start < position:
            raise ValueError(
                f"Group {part.owner} starts at key {part.start}, inside group {filled[-1].owner}, which ends at "
                f"{position}; groups must not overlap."
            )
        if part.start > position:
            filled.append(Segment(position, part.start, 0.0, rest))
        filled.append(part)
        position = part.stop
    if position < num_keys:
        filled.append(Segment(position, num_keys, 0.0, rest))
    return filled


def _join(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].stop == segment.start and _same_weight(joined[-1], segment):
            joined[-1] = replace(joined[-1], stop=segment.stop)
        else:
            joined.append(segment)
    return tuple(joined)


def _same_weight(first: Segment, second: Segment) -> bool:
    if isinstance(first.log_weight, Tensor) or isinstance(second.log_weight, Tensor):
        return first.log_weight is second.log_weight
    return first.log_weight == second.log_weight
