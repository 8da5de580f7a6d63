"""A part of the natural share of attention: the mixture of attention with and without some groups of keys.

A weight bends: softmax competes, so that a group with a tenth of its weight may still get half of the attention. A
share is linear. Let A(G) be the attention over the groups in G, and s_i the share of group i. Then

    O = integral over t from 0 to 1 of A({i: s_i > t}) dt

that is, with s sorted from the largest to the smallest, O = sum_k (s_k - s_{k+1}) A({1..k}), s_0 = 1 and s_{n+1} = 0,
which is the Choquet integral of A. A group with s = 0 is never there and one with s = 1 always; in between O is
continuous, does not depend on the order of the groups, and moves in a straight line when equal shares move together:
with p_i the natural share of group i, and O_i and O_rest the attention over its keys and over those with share 1,

    O = sum_i s p_i O_i + (1 - sum_i s p_i) O_rest.

Groups of one share are one to the mixture, so that joining or cutting them changes nothing. A query that can read
nothing at some t gets zeros there.

Shapes: B batch, H heads, L queries, K keys, G groups, n different shares; lower case = the size or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .amounts import MASKED, Share
from .groups import Group, GroupPlan, join_groups

_made: WeakKeyDictionary[GroupPlan, dict[bool, tuple[tuple[GroupPlan, Share], ...]]] = WeakKeyDictionary()
_stacked: WeakKeyDictionary[GroupPlan, dict[torch.device, Tensor]] = WeakKeyDictionary()


def coefficients(total_BHL: Tensor, lses: Sequence[Tensor], plan: GroupPlan, can_be_fully_masked: bool) -> list[Tensor]:
    """What the attention over the groups of each share counts in the mixture; those of share 1 count the rest to 1.

    Args:
        total_BHL: log-sum-exp over all keys whose share is 1.
        lses: log-sum-exp [B, H, L] over the keys of each share of `plan.shares`.
        can_be_fully_masked: total_BHL may be MASKED, which stands for no keys at all.
    """
    levels, places = plan.levels
    if isinstance(places, Tensor) and len(lses) > 1:
        index_nBHL = places.expand(len(lses), *total_BHL.shape)
        lses = torch.stack(list(lses)).gather(0, index_nBHL).unbind()
        found = _descend(total_BHL, lses, levels, can_be_fully_masked)
        return list(torch.empty_like(index_nBHL, dtype=total_BHL.dtype).scatter_(0, index_nBHL, torch.stack(found)))
    if len(lses) == 1:
        return _descend(total_BHL, lses, levels, can_be_fully_masked)
    found = _descend(total_BHL, [lses[place] for place in places], levels, can_be_fully_masked)
    return [coefficient for _, coefficient in sorted(zip(places, found, strict=True), key=lambda pair: pair[0])]


def shares_beside_one(plan: GroupPlan, device: torch.device) -> Tensor:
    """The different shares behind a first one of 1, fp32 [shares + 1, b, h, l]; made once for a plan and device."""
    made = _stacked.setdefault(plan, {})
    if device not in made:
        with torch.inference_mode(False):
            rows = [torch.as_tensor(share, dtype=torch.float32, device=device) for share in (1.0, *plan.shares)]
            rows = torch.broadcast_tensors(*(row.expand(1, 1, 1) if row.ndim < 3 else row for row in rows))
            made[device] = torch.stack(rows)
    return made[device]


def _descend(
    total_BHL: Tensor, lses: Sequence[Tensor], levels: Sequence[Share], can_be_fully_masked: bool
) -> list[Tensor]:
    """The same for shares that fall: c_k = a_k h_k, a_k being the natural share of k among 1..k and the rest, and

    h_k = s_k - s_{k+1} + (1 - a_{k+1}) h_{k+1} what all of those count together.
    """
    gains = []
    for index, lse_BHL in enumerate(lses, 1):
        gain_BHL = torch.sub(lse_BHL, total_BHL).sigmoid_()
        if can_be_fully_masked:
            gain_BHL.masked_fill_(lse_BHL < MASKED / 2, 0)
        gains.append(gain_BHL)
        if index < len(lses):
            total_BHL = torch.logaddexp(total_BHL, lse_BHL)
    found = [gains[-1].mul_(levels[-1])]
    held = levels[-1]
    for gain_BHL, level, below in zip(gains[-2::-1], levels[-2::-1], levels[:0:-1], strict=True):
        held = held - found[-1] + (level - below)
        found.append(gain_BHL.mul_(held))
    return found[::-1]


def mix_levels(attend: Callable[[GroupPlan], Tensor], like: Tensor, plan: GroupPlan) -> Tensor:
    """The mixture from whole attentions, where no log-sum-exp is to be had: one more than there are shares.

    Args:
        attend: attention [B, H, L, D] by a plan without shares.
        like: gives dtype and device.
    """
    wide = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
    out: Tensor | None = None
    for level, weight in levels_of(plan):
        part = attend(level).to(wide) * (weight.unsqueeze(-1) if isinstance(weight, Tensor) else weight)
        out = part if out is None else out + part
    assert out is not None  # the smallest share is above 0 somewhere
    return out.to(like.dtype)


def levels_of(plan: GroupPlan) -> tuple[tuple[GroupPlan, Share], ...]:
    """Made once for a plan, since more is made for each of its levels."""
    made = _made.setdefault(plan, {})
    key = torch.is_inference_mode_enabled()
    if key not in made:
        made[key] = tuple(_make_levels(plan))
    return made[key]


def _make_levels(plan: GroupPlan) -> Iterator[tuple[GroupPlan, Share]]:
    """The groups that are there between two neighbouring shares, and how far those are apart."""
    bounds = (1.0, *plan.levels[0], 0.0)
    for upper, lower in zip(bounds[:-1], bounds[1:], strict=True):
        found = (_at(group, upper) for group in plan.joined)
        groups = tuple(group for group in found if group is not None)
        width = upper - lower
        if groups and (isinstance(width, Tensor) or width > 0):
            joined = join_groups(groups)
            yield replace(plan, tracked=groups, joined=joined, rows=()), width


def _at(group: Group, bound: Share) -> Group | None:
    """The group where its share reaches the bound, without its share; None where it never does."""
    if not group.is_partial:
        return group
    if not isinstance(group.share, Tensor) and not isinstance(bound, Tensor):
        return replace(group, share=1.0) if group.share >= bound else None
    reaches = torch.as_tensor(group.share >= bound)
    log_weight = torch.where(reaches, group.log_weight, MASKED)
    return replace(group, log_weight=log_weight, can_be_masked=True, share=1.0)


def owners_of_keys(plan: GroupPlan, device: torch.device) -> Tensor:
    """One-hot, fp32 [K, G + 1]: the group of each key, the last column for those in none."""
    owners_KG = torch.zeros(plan.num_keys, plan.num_groups + 1, device=device)
    for group in plan.tracked:
        owners_KG[group.start : group.stop, group.owner] = 1
    return owners_KG
