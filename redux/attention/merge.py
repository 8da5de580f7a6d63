"""Attention of each group by a fast kernel, merged exactly.

With O_g and L_g the output and log-sum-exp of attention restricted to the keys of group g, and w_g its weight:

    O = sum_g exp(L_g + log w_g - L) O_g ,   L = logsumexp_g(L_g + log w_g)

which is the softmax over all keys with log w_g added to the logits, written group by group. All queries ask every
group: to take those inside a reference's region apart costs more on a GPU than the smaller kernel calls save (1.04 to
1.7 times the attention's time on an H200, for one to six references).

Shapes: B batch, H heads, L queries, K keys, D head size, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .amounts import MASKED
from .backends import run_kernel
from .fused import PARTS, can_fuse, fuse_, mixture_logits
from .groups import Group, GroupPlan
from .runs import KeyRuns
from .share import coefficients, shares_beside_one

Attend = Callable[[Group], tuple[Tensor, Tensor]]


@dataclass
class _Merged:
    """Groups merged into one.

    Attributes:
        out_BHLD: their attention; zeros where none has any weight.
        total_BHL: log-sum-exp of their weighted logits.
        counted: the groups, and the weighted log-sum-exp of each [B, H, L].
    """

    out_BHLD: Tensor
    total_BHL: Tensor
    counted: list[tuple[Group, Tensor]] = field(default_factory=list)

    @property
    def can_be_fully_masked(self) -> bool:
        """Some query may have weight 0 for all of them."""
        return all(group.can_be_masked for group, _ in self.counted)

    def fold(self, groups: Sequence[Group], attend: Attend) -> None:
        """Merge more groups into the output."""
        found = [attend(group) for group in groups]
        parts, lses = [part for part, _ in found], [lse for _, lse in found]
        self.total_BHL = _combine_([self.out_BHLD, *parts], [self.total_BHL, *lses])
        self.counted += zip(groups, lses, strict=True)

    def add_shares(self, shares_BGL: Tensor, coefficient_BHL: Tensor | None) -> None:
        """Add the share of each group, averaged over heads."""
        for group, lse_BHL in self.counted:
            share_BHL = torch.sub(lse_BHL, self.total_BHL).exp_()
            if self.can_be_fully_masked:
                share_BHL.masked_fill_(self.total_BHL < MASKED / 2, 0)
            if coefficient_BHL is not None:
                share_BHL.mul_(coefficient_BHL)
            shares_BGL[:, group.owner] += share_BHL.mean(1)


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
    other. Without that kernel `lerp` wants its weight in the dtype of the output; it computes in fp32 and rounds once.
    For bf16 and fp16 that rounded weight adds 0 to 18 % (worst at a share of 0.9) to the rounding error that an fp32
    mix of the same outputs has, at a third of the memory traffic; lses and shares stay in fp32.
    """

    def attend(group: Group) -> tuple[Tensor, Tensor]:
        """Output and weighted log-sum-exp of one group: O_g and L_g + log w_g."""
        name = largest if largest and group is longest else kernel
        out_BHLD, lse_BHL = run_kernel(name, q_BHLD, *runs.take(group.start, group.stop), scale)
        if not group.per_query and group.log_weight == 0:
            return out_BHLD, lse_BHL
        return out_BHLD, lse_BHL + group.log_weight

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


def _combine_(parts: list[Tensor], lses: list[Tensor]) -> Tensor:
    """Merge parts into the first one, in place; the log-sum-exp over all of them."""
    if can_fuse(parts[0]):
        return fuse_(parts, lses)
    total = lses[0]
    for part, lse in zip(parts[1:], lses[1:], strict=True):
        parts[0].lerp_(part, torch.sub(lse, total).sigmoid_().unsqueeze(-1).to(part.dtype))
        total = torch.logaddexp(total, lse)
    return total


def _merge(groups: Sequence[Group], attend: Attend, q_BHLD: Tensor) -> _Merged:
    """The groups merged, of which there may be none."""
    if not groups:
        total_BHL = torch.full(q_BHLD.shape[:3], MASKED, dtype=torch.float32, device=q_BHLD.device)
        return _Merged(torch.zeros_like(q_BHLD), total_BHL)
    out_BHLD, total_BHL = attend(groups[0])
    one = _Merged(out_BHLD, total_BHL, [(groups[0], total_BHL)])
    at_once = PARTS - 1 if can_fuse(out_BHLD) else 1  # or a third output would exist during the next kernel
    for start in range(1, len(groups), at_once):
        one.fold(groups[start : start + at_once], attend)
    if one.can_be_fully_masked:
        one.out_BHLD.masked_fill_((one.total_BHL < MASKED / 2).unsqueeze(-1), 0)
    return one


def _mix(
    base: _Merged, groups: Sequence[Group], attend: Attend, plan: GroupPlan, q_BHLD: Tensor
) -> Iterable[tuple[_Merged, Tensor | None]]:
    """Fold the groups with shares below one into the output of `base`; what counts how much in it, once it is read."""
    merged = [_merge([group for group in groups if group.has_share(share)], attend, q_BHLD) for share in plan.shares]
    parts, lses = [one.out_BHLD for one in (base, *merged)], [one.total_BHL for one in (base, *merged)]
    if can_fuse(base.out_BHLD):
        found_nBHL = _blend_(parts, lses, plan)
    else:
        found_nBHL = _step_(parts, lses, plan, base.can_be_fully_masked)
    return zip([base, *merged], found_nBHL, strict=True)


def _blend_(parts: list[Tensor], lses: list[Tensor], plan: GroupPlan) -> Iterable[Tensor]:
    """The mixture into the first part, and what each counts in it: a merge by the logarithms of that."""
    logits_nBHL = mixture_logits(lses, shares_beside_one(plan, lses[0].device))
    first = logits_nBHL[0]
    for start in range(1, len(parts), PARTS - 1):
        some = slice(start, start + PARTS - 1)
        first = fuse_([parts[0], *parts[some]], [first, *logits_nBHL[some]])
    return map(torch.exp, logits_nBHL)


def _step_(parts: list[Tensor], lses: list[Tensor], plan: GroupPlan, can_be_fully_masked: bool) -> Sequence[Tensor]:
    """The same one after the other, without the kernels."""
    found = coefficients(lses[0], lses[1:], plan, can_be_fully_masked)
    held_BHL = so_far_BHL = 1 - sum(found[1:], start=found[0])
    for part, coefficient_BHL in zip(parts[1:], found, strict=True):
        weight_BHL = coefficient_BHL
        if len(found) > 1:
            so_far_BHL = so_far_BHL + coefficient_BHL
            weight_BHL = coefficient_BHL / so_far_BHL.clamp(min=1e-30)
        parts[0].lerp_(part, weight_BHL.unsqueeze(-1).to(part.dtype))
    return [held_BHL, *found]
