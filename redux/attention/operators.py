"""Torch's attention kernels, called so that they give a log-sum-exp: private operators and, of 2.11, public functions.

Shapes: B batch, H heads, L queries, K keys, D head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Result = tuple[Tensor, Tensor]  # the output [B, H, L, D] and the natural log-sum-exp of the scaled logits [B, H, L]


def cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Result:
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, scale=scale)[:2]


def flash(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Result:
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[:2]


def efficient(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Result:
    return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)[:2]


def cpu(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Result:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)


def varlen(q_BHLD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, scale: float | None) -> Result:
    """`varlen_attn`, the public face of flash, with one sequence for each item of the batch."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    batch, heads, length, _ = q_BHLD.shape
    keys = k_BHKD.shape[2]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHLD, k_BHKD, v_BHKD))
    of_q, of_k = (_starts(batch, size, q_BHLD.device) for size in (length, keys))
    out, lse = varlen_attn(q, k, v, of_q, of_k, length, keys, scale=scale, return_aux=AuxRequest(lse=True))
    if lse.ndim == 2:  # [H, B * L]; on ROCm it is [B, H, L] already
        lse = lse.reshape(heads, batch, length).transpose(0, 1)
    return out.reshape(batch, length, heads, -1).transpose(1, 2), lse


@functools.lru_cache(maxsize=64)
def _starts(batch: int, size: int, device: torch.device) -> Tensor:
    return torch.arange(0, (batch + 1) * size, size, dtype=torch.int32, device=device)


def flex(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Result:
    """`flex_attention`, compiled, which takes seconds for a new kind of call."""
    from torch.nn.attention.flex_attention import AuxRequest

    out, aux = _flex()(q, k, v, scale=scale, return_aux=AuxRequest(lse=True))
    return out, aux.lse


@functools.cache
def _flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
