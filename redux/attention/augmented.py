"""The same attention in one call of any kernel: where none gives a log-sum-exp, a mask is to be kept, or for training.

The table of log weights over queries and keys has a column for each group, so its rank is their number, and it fits
into a few more entries of each head:

    q' = [q, log w / scale],   k' = [k, one-hot of the key's group],   q' . k' * scale = q . k * scale + log w

No tensor of queries x keys is made. Each log weight takes two entries, its upper 8 bits and what they leave, so that
neither bf16 nor TF32 rounds it. A power of two moves from the queries' entries to the keys' (which it does not round),
so that both are of one size: kernels that quantise lose little by them.

Shapes: B batch, H heads, L queries, K keys, D head size, G groups, S groups, C entries; lower case = the size or 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from .amounts import MASKED
from .backends import run_kernel
from .groups import Group, GroupPlan
from .share import owners_of_keys

MULTIPLE = 8  # kernels want head sizes of whole 16 bytes
TYPICAL = 4.0  # the size of a log weight that is not looked into
LOWEST = -1e4  # the log weight that stands for MASKED: beside any logit its exponential is 0 in fp32


@dataclass(frozen=True)
class Entries:
    """What is put behind the entries of the heads, the keys beginning with the first group's.

    Attributes:
        query_bhlC, key_KC: in the dtype of the queries; C is a multiple of MULTIPLE.
        read_Sbhl: which queries give a group any weight, bool; None for numbers, which all do.
    """

    query_bhlC: Tensor
    key_KC: Tensor
    read_Sbhl: tuple[Tensor | None, ...]


_entries: WeakKeyDictionary[GroupPlan, dict[tuple, Entries]] = WeakKeyDictionary()


def augmented_attention(
    q_BHLD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    plan: GroupPlan,
    scale: float | None,
    mask: Tensor | None,
    kernel: str | None = None,
) -> Tensor:
    """The output [B, H, L, D]. Differentiable in queries, keys, values and a mask of floats.

    `kernel` names the one to use, which takes no mask and no gradient; None is torch's choice.
    """
    return _attend(q_BHLD, k_BHKD, v_BHKD, plan, plan.joined, scale, _mask_4d(mask, q_BHLD, k_BHKD), kernel)


def count_entries(plan: GroupPlan) -> int:
    """By how many entries the heads grow."""
    return 2 * (len(plan.joined) + 1) + -2 * (len(plan.joined) + 1) % MULTIPLE


def augmented_shares(
    q_BHLD: Tensor, k_BHKD: Tensor, plan: GroupPlan, scale: float | None, mask: Tensor | None
) -> Tensor:
    """The shares [B, G + 1, L] in fp32: attention to values that name the group of their key."""
    owner_BHKG = owners_of_keys(plan, k_BHKD.device).expand(*k_BHKD.shape[:2], -1, -1)
    mask_bhlk = _mask_4d(mask, q_BHLD, k_BHKD)
    return _attend(q_BHLD.float(), k_BHKD.float(), owner_BHKG, plan, plan.tracked, scale, mask_bhlk).mean(1).mT


def augment(
    q_BHLD: Tensor,
    k_BHKD: Tensor,
    plan: GroupPlan,
    groups: tuple[Group, ...],
    scale: float,
    lowest: float = LOWEST,
) -> tuple[Tensor, Tensor, Entries]:
    """Queries and keys with the entries behind theirs; the keys are those of the groups, first to last.

    `lowest` is the log weight that stands for nothing, where numbers of the dtype reach as far.
    """
    key = (groups is plan.tracked, scale, lowest, q_BHLD.dtype, q_BHLD.device, torch.is_inference_mode_enabled())
    made = _entries.setdefault(plan, {})
    if key not in made:
        made[key] = _make_entries(groups, q_BHLD, scale, lowest)
    entries = made[key]
    query_BHLC = entries.query_bhlC.expand(*q_BHLD.shape[:2], q_BHLD.shape[2], -1)
    key_BHKC = entries.key_KC.expand(*k_BHKD.shape[:2], -1, -1)
    return torch.cat((q_BHLD, query_BHLC), -1), torch.cat((k_BHKD, key_BHKC), -1), entries


def _attend(
    q_BHLD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    plan: GroupPlan,
    groups: tuple[Group, ...],
    scale: float | None,
    mask_bhlk: Tensor | None,
    kernel: str | None = None,
) -> Tensor:
    keys = slice(groups[0].start, groups[-1].stop)
    k_BHKD, v_BHKD = k_BHKD[:, :, keys], v_BHKD[:, :, keys]
    if mask_bhlk is not None and mask_bhlk.shape[3] > 1:
        mask_bhlk = mask_bhlk[..., keys]
    # One number for all keys changes no softmax: it can only forbid them all, of which _fully_masked takes care.
    if mask_bhlk is None and len(groups) == 1 and not groups[0].per_query:
        return F.scaled_dot_product_attention(q_BHLD, k_BHKD, v_BHKD, scale=scale)
    scale = q_BHLD.shape[-1] ** -0.5 if scale is None else scale
    q_BHLD, k_BHKD, entries = augment(q_BHLD, k_BHKD, plan, groups, scale)
    if kernel:
        out_BHLD = run_kernel(kernel, q_BHLD, k_BHKD, v_BHKD, scale)[0]
        if all(group.can_be_masked for group in groups):
            out_BHLD = out_BHLD.masked_fill(_fully_masked(groups, entries, None, q_BHLD.device).unsqueeze(-1), 0)
        return out_BHLD
    width = v_BHKD.shape[-1]
    v_BHKD = F.pad(v_BHKD, (0, max(0, q_BHLD.shape[-1] - width)))  # most kernels want equal head sizes
    bias_bhlk = None if mask_bhlk is None or mask_bhlk.shape[3] == 1 else _bias(mask_bhlk, q_BHLD.dtype)
    out_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BHKD, v_BHKD, attn_mask=bias_bhlk, scale=scale)[..., :width]
    if mask_bhlk is None and not all(group.can_be_masked for group in groups):
        return out_BHLD
    return out_BHLD.masked_fill(_fully_masked(groups, entries, mask_bhlk, q_BHLD.device).unsqueeze(-1), 0)


def _make_entries(groups: tuple[Group, ...], q_BHLD: Tensor, scale: float, lowest: float) -> Entries:
    lowest = max(lowest, -6e4 * abs(scale))  # over the scale it fits into fp16
    first, device = groups[0].start, q_BHLD.device
    weights = [group.log_weight for group in groups]
    shape = [max(sizes) for sizes in zip((1, 1, 1), *(x.shape for x in weights if isinstance(x, Tensor)), strict=True)]
    # The last column is for the keys between groups, which have no weight.
    row_bhlS = torch.full((*shape, len(groups) + 1), lowest, dtype=torch.float32, device=device)
    if all(one.stop == other.start for one, other in pairwise(groups)):
        row_bhlS[..., -1] = 0
    name_KS = torch.zeros(groups[-1].stop - first, len(groups) + 1, dtype=q_BHLD.dtype, device=device)
    name_KS[:, -1] = 1
    for index, (group, weight) in enumerate(zip(groups, weights, strict=True)):
        row_bhlS[..., index] = weight.clamp(min=lowest) if isinstance(weight, Tensor) else max(weight, lowest)
        keys = slice(group.start - first, group.stop - first)
        name_KS[keys, -1], name_KS[keys, index] = 0, 1
    row_bhlS /= scale
    part = _part_of_keys(groups, scale, lowest)
    row_bhlS /= part
    high_bhlS = row_bhlS.bfloat16().float()
    padding = (0, -2 * (len(groups) + 1) % MULTIPLE)
    query_bhlC = F.pad(torch.cat((high_bhlS, row_bhlS - high_bhlS), -1).to(q_BHLD.dtype), padding)
    key_KC = F.pad(name_KS.repeat(1, 2) * part, padding)
    read = tuple(weight > MASKED / 2 if isinstance(weight, Tensor) else None for weight in weights)
    return Entries(query_bhlC, key_KC, read)


def _part_of_keys(groups: tuple[Group, ...], scale: float, lowest: float) -> float:
    """The power of two that is nearest to the root of the largest log weight over the scale; a guess for tensors."""
    weights = [TYPICAL if group.per_query else abs(float(group.log_weight)) for group in groups]
    largest = abs(lowest) if any(group.can_be_masked for group in groups) else min(max(weights), abs(lowest))
    return 2.0 ** round(0.5 * math.log2(max(largest / abs(scale), 1.0))) if scale else 1.0


def _bias(mask_bhlk: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as kernels take it; numbers that forbid a key stay finite, so that no sum of them is NaN."""
    if mask_bhlk.dtype == torch.bool:
        return mask_bhlk
    lowest = -6e4 if dtype == torch.float16 else MASKED
    return mask_bhlk.to(dtype).clamp(lowest, -lowest)


def _fully_masked(
    groups: tuple[Group, ...], entries: Entries, mask_bhlk: Tensor | None, device: torch.device
) -> Tensor:
    """Queries for which no key has any weight, bool [b, h, l]."""
    first, fully_masked_bhl = groups[0].start, torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    for group, read_bhl in zip(groups, entries.read_Sbhl, strict=True):
        if read_bhl is not None:
            may_bhl = read_bhl
        elif group.log_weight > MASKED / 2:
            may_bhl = torch.ones_like(fully_masked_bhl)
        else:
            continue
        if mask_bhlk is not None:
            may_bhl = may_bhl & _open(mask_bhlk, slice(group.start - first, group.stop - first))
        fully_masked_bhl = fully_masked_bhl & ~may_bhl
    return fully_masked_bhl


def _open(mask_bhlk: Tensor, keys: slice) -> Tensor:
    """Which queries may read any of the keys, bool [b, h, l]."""
    part_bhlk = mask_bhlk[..., keys] if mask_bhlk.shape[-1] > 1 else mask_bhlk
    return part_bhlk.any(-1) if part_bhlk.dtype == torch.bool else part_bhlk.amax(-1) > MASKED / 2


def _mask_4d(mask: Tensor | None, q_BHLD: Tensor, k_BHKD: Tensor) -> Tensor | None:
    if mask is None:
        return None
    needed = (*q_BHLD.shape[:3], k_BHKD.shape[2])
    mask_bhlk = mask[(None,) * (4 - mask.ndim)]
    if mask_bhlk.ndim != 4 or any(size not in (1, full) for size, full in zip(mask_bhlk.shape, needed, strict=True)):
        raise ValueError(f"The attention mask of shape {tuple(mask.shape)} does not broadcast to {needed}.")
    return mask_bhlk
