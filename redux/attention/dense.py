"""The same attention through an additive bias: where no kernel gives a log-sum-exp, or where a mask has to be kept.

Shapes: B batch, H heads, L queries (R of them at a time), K keys, D head size, G groups; lower case = the size or 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .groups import NOTHING, GroupPlan, Segment

# Elements of a bias, or of the logits when shares are counted, that may exist at a time: 64 MiB in fp32.
BUDGET = 1 << 24
# Stands for "no attention" where NOTHING is out of range.
NOTHING_FP16 = -3e4


@dataclass(frozen=True)
class Bias:
    """What is added to the logits of keys start..stop, all keys outside having no weight."""

    segments: tuple[Segment, ...]
    mask_bhlk: Tensor | None
    device: torch.device

    @property
    def keys(self) -> slice:
        return slice(self.segments[0].start, self.segments[-1].stop)

    @property
    def is_none(self) -> bool:
        return self.mask_bhlk is None and len(self.segments) == 1 and not self.segments[0].per_query

    @property
    def row_weights_b1L(self) -> list[Tensor]:
        return [segment.log_weight for segment in self.segments if isinstance(segment.log_weight, Tensor)]

    @property
    def row_size(self) -> int:
        """Elements of the bias for one query; 0 if it is the same for all."""
        batch = max((weight_b1L.shape[0] for weight_b1L in self.row_weights_b1L), default=0)
        if self.mask_bhlk is None:
            return batch * (self.keys.stop - self.keys.start)
        if not batch and self.mask_bhlk.shape[2] == 1:
            return 0
        return max(batch, self.mask_bhlk.shape[0]) * self.mask_bhlk.shape[1] * (self.keys.stop - self.keys.start)

    def rows(self, rows: slice) -> Tensor:
        """The bias of some queries, fp32 [b, h, r, K], between NOTHING and -NOTHING."""
        weights_b1r = [weight_b1L[..., rows] for weight_b1L in self.row_weights_b1L]
        batch = max((weight_b1r.shape[0] for weight_b1r in weights_b1r), default=1)
        length = weights_b1r[0].shape[2] if weights_b1r else 1
        first, last = self.keys.start, self.keys.stop
        bias_bhrk = torch.full((batch, 1, length, last - first), NOTHING, device=self.device)
        for segment in self.segments:
            weight = segment.log_weight
            value = weight[..., rows].unsqueeze(-1) if isinstance(weight, Tensor) else weight
            bias_bhrk[..., segment.start - first : segment.stop - first] = value
        if self.mask_bhlk is None:
            return bias_bhrk
        mask_bhrk = self.mask_bhlk if self.mask_bhlk.shape[2] == 1 else self.mask_bhlk[:, :, rows]
        mask_bhrk = mask_bhrk if mask_bhrk.shape[3] == 1 else mask_bhrk[..., self.keys]
        if mask_bhrk.dtype == torch.bool:
            return torch.where(mask_bhrk, bias_bhrk, NOTHING)
        return (bias_bhrk + mask_bhrk.float()).clamp_(NOTHING, -NOTHING)


def dense_attention(
    q_BHLD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, plan: GroupPlan, scale: float | None, mask: Tensor | None
) -> Tensor:
    """The output [B, H, L, D]; the bias exists for BUDGET elements' worth of queries at a time.

    On the CPU the bias is fp32. Elsewhere scaled_dot_product_attention wants the dtype of q for it, which rounds the
    log weights: by at most 0.2 % of their size in bf16, 0.025 % in fp16.
    """
    bias = Bias(plan.joined, _mask_4d(mask, q_BHLD, k_BHKD), q_BHLD.device)
    k_BHKD, v_BHKD = k_BHKD[:, :, bias.keys], v_BHKD[:, :, bias.keys]
    if bias.is_none:
        return _attend(q_BHLD, k_BHKD, v_BHKD, None, scale, False)
    can_starve = mask is not None or plan.can_starve
    parts = [
        _attend(q_BHLD[:, :, rows], k_BHKD, v_BHKD, bias.rows(rows), scale, can_starve)
        for rows in _chunks(q_BHLD.shape[2], bias.row_size)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def dense_shares(q_BHLD: Tensor, k_BHKD: Tensor, plan: GroupPlan, scale: float | None, mask: Tensor | None) -> Tensor:
    """The shares [B, G + 1, L] in fp32, from the logits of BUDGET elements' worth of queries at a time."""
    batch, heads, length, head_dim = q_BHLD.shape
    bias = Bias(plan.tracked, _mask_4d(mask, q_BHLD, k_BHKD), q_BHLD.device)
    k_BHDK = k_BHKD[:, :, bias.keys].float().mT * (head_dim**-0.5 if scale is None else scale)
    shares_BGL = torch.zeros(batch, plan.num_groups + 1, length, dtype=torch.float32, device=q_BHLD.device)
    for rows in _chunks(length, batch * heads * k_BHDK.shape[-1]):
        bias_bhrk = bias.rows(rows)
        share_BHRK = (torch.matmul(q_BHLD[:, :, rows].float(), k_BHDK) + bias_bhrk).softmax(-1)
        share_BHRK = share_BHRK.masked_fill_(_starved(bias_bhrk), 0)
        for segment in plan.tracked:
            first = bias.keys.start
            part_BHR = share_BHRK[..., segment.start - first : segment.stop - first].sum(-1)
            shares_BGL[:, segment.owner, rows] += part_BHR.mean(1)
    return shares_BGL


def _attend(
    q_BHRD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, bias_bhrk: Tensor | None, scale: float | None, can_starve: bool
) -> Tensor:
    if bias_bhrk is None:
        return F.scaled_dot_product_attention(q_BHRD, k_BHKD, v_BHKD, scale=scale)
    starved = _starved(bias_bhrk) if can_starve else None
    if q_BHRD.dtype == torch.float16 and q_BHRD.device.type != "cpu":
        bias_bhrk = bias_bhrk.clamp(NOTHING_FP16, -NOTHING_FP16)
    if q_BHRD.device.type != "cpu" or q_BHRD.dtype == torch.float64:
        bias_bhrk = bias_bhrk.to(q_BHRD.dtype)
    out_BHRD = F.scaled_dot_product_attention(q_BHRD, k_BHKD, v_BHKD, attn_mask=bias_bhrk, scale=scale)
    return out_BHRD if starved is None else out_BHRD.masked_fill(starved, 0)


def _starved(bias_bhrk: Tensor) -> Tensor:
    """Queries for which no key has any weight, bool [b, h, r, 1]."""
    return bias_bhrk.amax(-1, keepdim=True) < NOTHING / 2


def _mask_4d(mask: Tensor | None, q_BHLD: Tensor, k_BHKD: Tensor) -> Tensor | None:
    if mask is None:
        return None
    needed = (*q_BHLD.shape[:3], k_BHKD.shape[2])
    mask_bhlk = mask[(None,) * (4 - mask.ndim)]
    if mask_bhlk.ndim != 4 or any(size not in (1, full) for size, full in zip(mask_bhlk.shape, needed, strict=True)):
        raise ValueError(f"The attention mask of shape {tuple(mask.shape)} does not broadcast to {needed}.")
    return mask_bhlk


def _chunks(length: int, row_size: int) -> Iterator[slice]:
    step = max(1, BUDGET // row_size) if row_size else length
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
