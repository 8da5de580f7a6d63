"""Which keys weigh what: groups of keys, checked, split and joined once for many attention calls.

Shapes: B batch (or 1), H heads (or 1), L queries (or 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .amounts import MASKED, LogWeight, Share, read_log_weight, read_share

GroupSpec = tuple[int, int, LogWeight] | tuple[int, int, LogWeight, Share]


@dataclass(frozen=True, eq=False)
class Group:
    """Keys start..stop, which one kernel call serves.

    Attributes:
        log_weight: a number, or fp32 [B or 1, H or 1, L or 1], never below MASKED.
        owner: its place among the groups that were given, whose number stands for the rest; of joined ones the first's.
        can_be_masked: some query gives it weight 0.
        share: the part of its natural share of attention that it gets, 0 to 1: a number, or a tensor as log_weight.
    """

    start: int
    stop: int
    log_weight: LogWeight
    owner: int
    can_be_masked: bool = False
    share: Share = 1.0

    @property
    def per_query(self) -> bool:
        return isinstance(self.log_weight, Tensor)

    @property
    def is_partial(self) -> bool:
        return isinstance(self.share, Tensor) or self.share != 1.0

    def has_share(self, share: Share) -> bool:
        return _identity(self.share) == _identity(share)


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """What `prepare_groups` found; may be used for any number of calls with the same layout of keys and queries.

    Attributes:
        tracked: groups in the order of the keys, those of different groups apart, as shares need them.
        joined: the fewest groups that give the same attention.
        rows: group and shape of each log weight and share that is a tensor.
    """

    num_keys: int
    num_groups: int
    tracked: tuple[Group, ...]
    joined: tuple[Group, ...]
    rows: tuple[tuple[int, tuple[int, ...]], ...]

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """The different shares below one, in the order of the keys; groups of one share act together."""
        partial = {_identity(group.share): group.share for group in self.joined if group.is_partial}
        return tuple(partial.values())

    @cached_property
    def levels(self) -> tuple[tuple[Share, ...], list[int] | Tensor]:
        """`shares` from the largest to the smallest, for each query by itself, and the place in `shares` of each.

        Numbers and a list; or, where any share is a tensor, tensors and int64 [shares, b, h, l].
        """
        numbers = [share for share in self.shares if not isinstance(share, Tensor)]
        if len(numbers) == len(self.shares):
            order = sorted(range(len(numbers)), key=lambda index: -numbers[index])
            return tuple(numbers[index] for index in order), order
        device = next(share.device for share in self.shares if isinstance(share, Tensor))
        rows = [
            torch.as_tensor(share, dtype=torch.float32, device=device).expand(1, 1, 1)
            if not isinstance(share, Tensor)
            else share
            for share in self.shares
        ]
        levels, places = torch.stack(torch.broadcast_tensors(*rows)).sort(dim=0, descending=True)
        return tuple(levels.unbind()), places


def prepare_groups(
    groups: Sequence[GroupSpec], num_keys: int, device: torch.device | str | None = None, *, inspect: bool = True
) -> GroupPlan:
    """Check the groups, drop what has no weight, and join what one kernel call can serve.

    Args:
        groups: (start, stop, log_weight) or (start, stop, log_weight, share), half-open ranges of keys that do not
            overlap, in any order. Keys in no group have weight 1.
            log_weight is the natural logarithm of the weight, from -inf (weight 0) to any finite number: a number,
            or a tensor [L] (per query), [1, L] or [B, L] (per batch item and query), or [B or 1, H or 1, L or 1]
            (per head as well).
            share, 0 to 1, in the same shapes: the part that the group keeps of its natural share of attention; what
            it gives up goes to the keys that remain (`redux.attention.share`). 1 if it is left out.
        num_keys: how many keys there are.
        device: where the attention will run; tensors are brought there. None leaves them where they are.
        inspect: look into tensors that are not on the CPU, which waits for the device: a group without any weight
            is then dropped, one with the same weight everywhere treated as a number, NaN and +inf found. Tensors on
            the CPU are always inspected.

    Raises:
        ValueError: a range outside the keys, ranges that overlap, a log weight that is NaN, +inf or of another shape,
            a share outside 0 to 1.
    """
    weights: dict[int, tuple[LogWeight, bool]] = {}  # a tensor that several groups share stays one tensor
    shares: dict[int, Share] = {}
    parts, rows = [], []
    groups = tuple(groups)  # keeps the tensors alive, so that their ids stay theirs
    for owner, (start, stop, log_weight, *more) in enumerate(groups):
        share = more[0] if more else 1.0
        if not 0 <= start <= stop <= num_keys:
            raise ValueError(f"Group {owner} covers keys {start} to {stop}, but there are keys 0 to {num_keys} only.")
        if id(log_weight) not in weights:
            weights[id(log_weight)] = read_log_weight(log_weight, owner, device, inspect)
        if id(share) not in shares:
            shares[id(share)] = read_share(share, owner, device, inspect)
        rows += [(owner, tuple(x.shape)) for x in (log_weight, share) if isinstance(x, Tensor) and x.ndim]
        weight, can_be_masked = weights[id(log_weight)]
        parts.append(Group(start, stop, weight, owner, can_be_masked, shares[id(share)]))
    parts = sorted((part for part in parts if part.start < part.stop), key=lambda part: part.start)
    parts = _with_rest(parts, num_keys, len(groups))
    tracked = tuple(part for part in parts if not _is(part.log_weight, MASKED) and not _is(part.share, 0.0))
    return GroupPlan(num_keys, len(groups), tracked, join_groups(tracked), tuple(rows))


def _is(value: float | Tensor, number: float) -> bool:
    return not isinstance(value, Tensor) and value == number


def _with_rest(parts: list[Group], num_keys: int, rest: int) -> list[Group]:
    """The groups with the keys between them filled in at weight 1."""
    filled: list[Group] = []
    position = 0
    for part in parts:
        if part.start < position:
            raise ValueError(
                f"Group {part.owner} starts at key {part.start}, inside group {filled[-1].owner}, which ends at "
                f"{position}; groups must not overlap."
            )
        if part.start > position:
            filled.append(Group(position, part.start, 0.0, rest))
        filled.append(part)
        position = part.stop
    if position < num_keys:
        filled.append(Group(position, num_keys, 0.0, rest))
    return filled


def join_groups(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Neighbours of equal weight and share as one."""
    joined: list[Group] = []
    for group in groups:
        last = joined[-1] if joined else None
        if last and last.stop == group.start and _acts_as(last) == _acts_as(group):
            joined[-1] = replace(last, stop=group.stop)
        else:
            joined.append(group)
    return tuple(joined)


def _acts_as(group: Group) -> tuple:
    return _identity(group.log_weight), _identity(group.share)


def _identity(value: float | Tensor) -> tuple[str, float]:
    """Equal for equal numbers and for one and the same tensor."""
    return ("tensor", id(value)) if isinstance(value, Tensor) else ("number", value)
