"""Attention of each group by a fast kernel, merged exactly.

With O_g and L_g the output and log-sum-exp of attention restricted to the keys of group g, and w_g its weight:

    O = sum_g exp(L_g + log w_g - L) O_g ,   L = logsumexp_g(L_g + log w_g)

which is the softmax over all keys with log w_g added to the logits, written group by group. Queries to which a group
means nothing, outside the region of a reference, need not ask it: where many of them do not, only its readers do.

Shapes: B batch, H heads, L queries, n of them, K keys, D head size, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .amounts import MASKED
from .backends import run_kernel
from .fused import PARTS, can_fuse, fuse_
from .groups import Group, GroupPlan
from .runs import KeyRuns
from .share import coefficients

Attend = Callable[[Group], tuple[Tensor, Tensor]]


@dataclass
class _Merged:
    """Groups merged into one.

    Attributes:
        out_BHLD: their attention; zeros where none has any weight.
        total_BHL: log-sum-exp of their weighted logits.
        readers: which queries these are; None = all.
        counted: the groups, and the weighted log-sum-exp of each for its readers [B, H, n].
    """

    out_BHLD: Tensor
    total_BHL: Tensor
    readers: Tensor | None = None
    counted: list[tuple[Group, Tensor]] = field(default_factory=list)

    @property
    def can_be_fully_masked(self) -> bool:
        """Some query may have weight 0 for all of them."""
        return all(group.can_be_masked for group, _ in self.counted)

    def fold(self, groups: Sequence[Group], attend: Attend) -> None:
        """Merge groups of the same queries, or one that few of them read, into the output."""
        at = groups[0].readers if self.readers is None else None
        found = [attend(group) for group in groups]
        parts, lses = [part for part, _ in found], [lse for _, lse in found]
        if at is None:
            self.total_BHL = _combine_([self.out_BHLD, *parts], [self.total_BHL, *lses])
        else:
            some_BHnD = take_queries(self.out_BHLD, at)
            total_BHn = _combine_([some_BHnD, *parts], [self.total_BHL.index_select(2, at), *lses])
            self.out_BHLD.index_copy_(2, at, some_BHnD)
            self.total_BHL = self.total_BHL.index_copy(2, at, total_BHn)
        self.counted += zip(groups, lses, strict=True)

    def add_shares(self, shares_BGL: Tensor, coefficient_BHL: Tensor | None) -> None:
        """Add the share of each group, averaged over heads."""
        for group, lse_BHn in self.counted:
            total_BHn = _pick(self.total_BHL, group.readers if self.readers is None else None)
            share_BHn = torch.sub(lse_BHn, total_BHn).exp_()
            if self.can_be_fully_masked:
                share_BHn.masked_fill_(total_BHn < MASKED / 2, 0)
            if coefficient_BHL is not None:
                share_BHn.mul_(_pick(coefficient_BHL, group.readers))
            if group.readers is None:
                shares_BGL[:, group.owner] += share_BHn.mean(1)
            else:
                shares_BGL[:, group.owner].index_add_(1, group.readers, share_BHn.mean(1))


def merged_attention(
    q_BHLD: Tensor,
    runs: KeyRuns,
    plan: GroupPlan,
    kernel: str,
    scale: float | None,
    return_shares: bool,
    largest: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The output [B, H, L, D], and the shares [B, G + 1, L] if wanted.

    `largest` names another kernel for the group with the most keys.

    Groups are folded in one after the other, so that no more than two outputs exist at a time, four where a kernel
    merges as many at once (`fused`); one more for each different share below one, whose coefficients depend on each
    other. `lerp` wants its weight in the dtype of the output; it computes in fp32 and rounds once. For bf16 and fp16
    that rounded weight adds 0 to 18 % (worst at a share of 0.9) to the rounding error that an fp32 mix of the same
    outputs has, at a third of the memory traffic; lses and shares stay in fp32.
    """
    taken: dict[int, Tensor] = {}

    def attend(group: Group) -> tuple[Tensor, Tensor]:
        """Output and weighted log-sum-exp of one group for its readers: O_g and L_g + log w_g."""
        name = largest if largest and group is longest else kernel
        queries = q_BHLD
        if group.readers is not None:
            if id(group.readers) not in taken:
                taken[id(group.readers)] = take_queries(q_BHLD, group.readers)
            queries = taken[id(group.readers)]
        out_BHnD, lse_BHn = run_kernel(name, queries, *runs.take(group.start, group.stop), scale)
        if not group.per_query and group.log_weight == 0:
            return out_BHnD, lse_BHn
        return out_BHnD, lse_BHn + group.log_weight_of_readers

    groups = runs.split(plan.tracked if return_shares else plan.joined)
    longest = max(groups, key=lambda group: group.stop - group.start)
    base = _merge([group for group in groups if not group.is_partial], attend, q_BHLD)
    counts = _mix(base, groups, attend, plan, q_BHLD) if plan.shares else [(base, None)]
    if not return_shares:
        return base.out_BHLD, None
    shape = q_BHLD.shape[0], plan.num_groups + 1, q_BHLD.shape[2]
    shares_BGL = torch.zeros(shape, dtype=torch.float32, device=q_BHLD.device)
    for one, coefficient_BHL in counts:
        one.add_shares(shares_BGL, coefficient_BHL)
    return base.out_BHLD, shares_BGL


def take_queries(x_BHLD: Tensor, readers: Tensor) -> Tensor:
    """Some of the queries, laid out as kernels lay out what they give."""
    return x_BHLD.transpose(1, 2).index_select(1, readers).transpose(1, 2)


def _pick(x_BHL: Tensor, readers: Tensor | None) -> Tensor:
    return x_BHL if readers is None else x_BHL.index_select(2, readers)


def _combine_(parts: list[Tensor], lses: list[Tensor]) -> Tensor:
    """Merge parts into the first one, in place; the log-sum-exp over all of them."""
    if can_fuse(parts[0]):
        return fuse_(parts, lses)
    total = lses[0]
    for part, lse in zip(parts[1:], lses[1:], strict=True):
        parts[0].lerp_(part, torch.sub(lse, total).sigmoid_().unsqueeze(-1).to(part.dtype))
        total = torch.logaddexp(total, lse)
    return total


def _merge(groups: Sequence[Group], attend: Attend, q_BHLD: Tensor, readers: Tensor | None = None) -> _Merged:
    """The groups merged, for all queries or, where all of them have the same, for their readers."""
    here = [group for group in groups if group.readers is readers]
    few = [group for group in groups if group.readers is not readers]
    if here:
        out_BHLD, total_BHL = attend(here[0])
        one = _Merged(out_BHLD, total_BHL, readers, [(here[0], total_BHL)])
    else:
        one = _no_keys(q_BHLD)
    at_once = PARTS - 1 if can_fuse(one.out_BHLD) else 1  # or a third output would exist during the next kernel
    for start in range(1, len(here), at_once):
        one.fold(here[start : start + at_once], attend)
    for group in few:
        one.fold([group], attend)
    if one.counted and one.can_be_fully_masked:
        one.out_BHLD.masked_fill_((one.total_BHL < MASKED / 2).unsqueeze(-1), 0)
    return one


def _no_keys(q_BHLD: Tensor) -> _Merged:
    total_BHL = torch.full(q_BHLD.shape[:3], MASKED, dtype=torch.float32, device=q_BHLD.device)
    return _Merged(torch.zeros_like(q_BHLD), total_BHL)


def _mix(
    base: _Merged, groups: Sequence[Group], attend: Attend, plan: GroupPlan, q_BHLD: Tensor
) -> list[tuple[_Merged, Tensor | None]]:
    """Fold the groups with shares below one into the output of `base`; what counts how much in it."""
    merged = []
    for share in plan.shares:
        alike = [group for group in groups if group.has_share(share)]
        same = all(group.readers is alike[0].readers for group in alike)
        merged.append(_merge(alike, attend, q_BHLD, alike[0].readers if same else None))
    lses = [_spread(one, base.total_BHL) for one in merged]
    found = coefficients(base.total_BHL, lses, plan, base.can_be_fully_masked)
    held_BHL = so_far_BHL = 1 - sum(found[1:], start=found[0])
    for one, coefficient_BHL in zip(merged, found, strict=True):
        weight_BHL = coefficient_BHL
        if len(merged) > 1:
            so_far_BHL = so_far_BHL + coefficient_BHL
            weight_BHL = coefficient_BHL / so_far_BHL.clamp(min=1e-30)
        weight_BHn1 = _pick(weight_BHL, one.readers).unsqueeze(-1).to(base.out_BHLD.dtype)
        if one.readers is None:
            base.out_BHLD.lerp_(one.out_BHLD, weight_BHn1)
        else:
            some_BHnD = take_queries(base.out_BHLD, one.readers).lerp_(one.out_BHLD, weight_BHn1)
            base.out_BHLD.index_copy_(2, one.readers, some_BHnD)
    return [(base, held_BHL), *zip(merged, found, strict=True)]


def _spread(one: _Merged, like_BHL: Tensor) -> Tensor:
    """The log-sum-exp for all queries: nothing for those that do not read the groups, whose share is 0."""
    if one.readers is None:
        return one.total_BHL
    return torch.full_like(like_BHL, MASKED).index_copy_(2, one.readers, one.total_BHL)
