"""Weighted attention written out in float64, key by key, on any backend's inputs; what its tests compare with.

Shapes: B batch, H heads, L queries, K keys, D head size, G groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from redux.attention import available_backends, weighted_attention, weighted_attention_and_shares

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASES = [
    pytest.param(device, dtype, backend, head_dim, id=f"{device}-{str(dtype)[6:]}-{backend}-{head_dim}")
    for device in DEVICES
    for dtype in DTYPES
    for head_dim in (64, 128)
    for backend in available_backends(device, dtype, head_dim)
]
# Half precision rounds the output once for each group; TF32 may serve fp32 on a GPU.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
GPU_TOLERANCE = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 8e-2}

on_all = pytest.mark.parametrize(("device", "dtype", "backend", "head_dim"), CASES)
BATCH, HEADS, QUERIES, KEYS = 2, 3, 83, 101


def tolerance(device: str, dtype: torch.dtype) -> float:
    return (TOLERANCE if device == "cpu" else GPU_TOLERANCE)[dtype]


def inputs(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    queries: int = QUERIES,
    keys: int = KEYS,
    head_dim: int = 64,
    seed: int = 0,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(BATCH, HEADS, length, head_dim) for length in (queries, keys, keys)]
    return [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]


def whole(value: float | Tensor, queries: int = QUERIES) -> Tensor:
    """A log weight or share for each item, head and query, float64."""
    value = torch.as_tensor(value).detach().cpu().double()
    value = value[:, None] if value.ndim == 2 else value
    return value.expand(BATCH, HEADS, queries)


def truth(
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[tuple], mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output and shares [B, G + 1, L] by what every key counts: the integral over t, written out key by key.

    Z(t) is the sum of exponentials over the keys whose group has a share above t; a key of a group with share s counts
    its exponential times the integral of 1 / Z(t) from 0 to s. Z is constant between neighbouring shares.
    """
    q, k, v = (x.detach().cpu().double() for x in (q, k, v))
    queries, keys = q.shape[2], k.shape[2]
    weight_BHLK, share_BHLK = (torch.ones(BATCH, HEADS, queries, keys, dtype=torch.float64) for _ in range(2))
    names_KG = torch.zeros(keys, len(groups) + 1, dtype=torch.float64)
    names_KG[:, -1] = 1
    for index, (start, stop, log_weight, *share) in enumerate(groups):
        weight_BHLK[..., start:stop] = whole(log_weight, queries).exp().unsqueeze(-1)
        share_BHLK[..., start:stop] = whole(share[0] if share else 1.0, queries).unsqueeze(-1)
        names_KG[start:stop] = F.one_hot(torch.tensor(index), len(groups) + 1).double()
    logits = q @ k.mT * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask.double()
    part_BHLK = (logits - logits.amax(-1, keepdim=True).clamp(min=-1e9)).exp() * weight_BHLK
    bounds_BHLN = torch.cat((torch.zeros(BATCH, HEADS, queries, 1), share_BHLK), -1).double().sort(-1).values
    counts_BHLK = torch.zeros_like(part_BHLK)
    for low, high in itertools.pairwise(bounds_BHLN.unbind(-1)):
        there = share_BHLK >= high.unsqueeze(-1)
        total = (part_BHLK * there).sum(-1, keepdim=True)
        found = torch.where(total > 0, part_BHLK * there / total, 0.0)
        counts_BHLK += found * (high - low).unsqueeze(-1)
    return counts_BHLK @ v, (counts_BHLK @ names_KG).mean(1).mT


def check(q: Tensor, k: Tensor, v: Tensor, groups: list, limit: float, **options: object) -> tuple[Tensor, Tensor]:
    """Output and shares against the truth, whether shares are asked for or not, nothing mutated."""
    before = [x.clone() for x in (q, k, v)]
    values = [x for group in groups for x in group[2:] if isinstance(x, Tensor)]
    copies = [x.clone() for x in values]
    expected, expected_shares = truth(q, k, v, groups, options.get("mask"))
    plain = weighted_attention(q, k, v, groups, **options)
    out, shares = weighted_attention_and_shares(q, k, v, groups, **options)
    for found in (plain, out):
        assert found.dtype == q.dtype
        torch.testing.assert_close(found.cpu().double(), expected, atol=limit, rtol=limit)
    torch.testing.assert_close(shares.cpu().double(), expected_shares, atol=limit, rtol=0)
    for x, copy in zip((q, k, v, *values), (*before, *copies), strict=True):
        assert torch.equal(x, copy)
    return out, shares
