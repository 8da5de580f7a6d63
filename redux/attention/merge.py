"""Attention of each group by a fast kernel, merged exactly.

With O_g and L_g the output and log-sum-exp of attention restricted to the keys of group g, and w_g its weight:

    O = sum_g exp(L_g + log w_g - L) O_g ,   L = logsumexp_g(L_g + log w_g)

which is the softmax over all keys with log w_g added to the logits, written group by group.

Shapes: B batch, H heads, L queries, K keys, D head size, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import run_kernel
from .groups import NOTHING, GroupPlan, Segment


def merged_attention(
    q_BHLD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    plan: GroupPlan,
    kernel: str,
    scale: float | None,
    return_shares: bool,
) -> tuple[Tensor, Tensor | None]:
    """The output [B, H, L, D], and the shares [B, G + 1, L] if wanted.

    Groups are folded in one after the other, so that no more than two outputs exist at a time. `lerp` wants its
    weight in the dtype of the output; it computes in fp32 and rounds once. For bf16 and fp16 that rounded weight
    adds 0 to 18 % (worst at a share of 0.9) to the rounding error that an fp32 mix of the same outputs has, at a
    third of the memory traffic; logits and shares stay in fp32.
    """
    segments = plan.tracked if return_shares else plan.joined
    needs_total = return_shares or plan.can_starve
    out_BHLD, total_BHL = _attend(segments[0], q_BHLD, k_BHKD, v_BHKD, kernel, scale)
    logits_BHL = [total_BHL]
    for index, segment in enumerate(segments[1:], 2):
        part_BHLD, logit_BHL = _attend(segment, q_BHLD, k_BHKD, v_BHKD, kernel, scale)
        share_BHL = torch.sub(logit_BHL, total_BHL).sigmoid_()
        out_BHLD.lerp_(part_BHLD, share_BHL.unsqueeze(-1).to(out_BHLD.dtype))
        del part_BHLD  # or a third output would exist during the next kernel
        if needs_total or index < len(segments):
            total_BHL = torch.logaddexp(total_BHL, logit_BHL)
        if return_shares:
            logits_BHL.append(logit_BHL)
    starved_BHL = total_BHL < NOTHING / 2 if plan.can_starve else None
    if starved_BHL is not None:
        out_BHLD.masked_fill_(starved_BHL.unsqueeze(-1), 0)
    if not return_shares:
        return out_BHLD, None
    return out_BHLD, _shares(segments, logits_BHL, total_BHL, starved_BHL, plan.num_groups)


def _attend(
    segment: Segment, q_BHLD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, kernel: str, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Output and weighted logit of one segment: O_g and L_g + log w_g."""
    keys = slice(segment.start, segment.stop)
    out_BHLD, lse_BHL = run_kernel(kernel, q_BHLD, k_BHKD[:, :, keys], v_BHKD[:, :, keys], scale)
    if not segment.per_query and segment.log_weight == 0:
        return out_BHLD, lse_BHL
    return out_BHLD, lse_BHL + segment.log_weight


def _shares(
    segments: Sequence[Segment],
    logits_BHL: Sequence[Tensor],
    total_BHL: Tensor,
    starved_BHL: Tensor | None,
    num_groups: int,
) -> Tensor:
    batch, _, length = total_BHL.shape
    shares_BGL = torch.zeros(batch, num_groups + 1, length, dtype=torch.float32, device=total_BHL.device)
    for segment, logit_BHL in zip(segments, logits_BHL, strict=True):
        share_BHL = torch.sub(logit_BHL, total_BHL).exp_()
        if starved_BHL is not None:
            share_BHL.masked_fill_(starved_BHL, 0)
        shares_BGL[:, segment.owner] += share_BHL.mean(1)
    return shares_BGL
