"""A mask of another node beside the weights: extended, never ignored. The peer is torch's own attention in float64.

Shapes: B batch, H heads, L queries, K keys.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from redux.attention import weighted_attention, weighted_attention_and_shares

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# On a GPU TF32 may serve fp32.
TOLERANCE = {
    ("cpu", torch.float32): 5e-6,
    ("cuda", torch.float32): 2e-3,
    ("cpu", torch.float16): 2e-3,
    ("cuda", torch.float16): 1e-2,
    ("cpu", torch.bfloat16): 2e-2,
    ("cuda", torch.bfloat16): 8e-2,
}
QUERIES, KEYS = 83, 101


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def inputs(device: str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 3, length, head_dim) for length in (QUERIES, KEYS, KEYS)]
    return [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]


def log_weights(seed: int = 1, batch: int = 1) -> Tensor:
    """Of weights 0 to 1e6, a third of them 0; [B, L]."""
    weight = random(batch, QUERIES, seed=seed) ** 8 * 1e6
    return (weight * (random(batch, QUERIES, seed=seed + 1) > 1 / 3)).log()


def peer(q: Tensor, k: Tensor, v: Tensor, groups: list, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Output and shares; the shares by attending to one-hot values that name each key's group."""
    q, k, v, mask = (x.cpu() if x.dtype == torch.bool else x.cpu().double() for x in (q, k, v, mask))
    bias = torch.zeros(2, 1, QUERIES, KEYS, dtype=torch.float64)
    names = torch.zeros(KEYS, len(groups) + 1, dtype=torch.float64)
    names[:, -1] = 1
    for index, (start, stop, log_weight) in enumerate(groups):
        weight = log_weight.cpu().double() if isinstance(log_weight, Tensor) else torch.tensor([[log_weight]]).double()
        bias[:, 0, :, start:stop] = weight.unsqueeze(-1)
        names[start:stop] = F.one_hot(torch.tensor(index), len(groups) + 1).double()
    bias = bias.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else bias + mask
    starved = (bias == -math.inf).all(-1, keepdim=True)
    out, share = (
        F.scaled_dot_product_attention(q, k, values, attn_mask=bias).masked_fill(starved, 0)
        for values in (v, names.expand(2, 3, -1, -1))
    )
    return out, share.mean(1).mT


def check(q: Tensor, k: Tensor, v: Tensor, groups: list, mask: Tensor, limit: float) -> Tensor:
    expected, expected_shares = peer(q, k, v, groups, mask)
    before = mask.clone()
    plain = weighted_attention(q, k, v, groups, mask=mask)
    out, shares = weighted_attention_and_shares(q, k, v, groups, mask=mask)
    assert torch.equal(out, plain) and out.dtype == q.dtype and torch.equal(mask, before)
    torch.testing.assert_close(out.cpu().double(), expected, atol=limit, rtol=limit)
    torch.testing.assert_close(shares.cpu().double(), expected_shares, atol=limit, rtol=0)
    return out


def masks() -> dict[str, Tensor]:
    allowed = random(2, 3, QUERIES, KEYS, seed=6) > 0.5
    allowed[0, :, 5] = False  # a query that may see nothing
    allowed[1, 1, 6, :40] = allowed[1, 1, 6, 50:] = False  # one that may see only what has weight 0
    return {
        "full": allowed,
        "no heads": allowed[:1, :1],
        "matrix": allowed[0, 0],
        "keys": random(1, 1, 1, KEYS, seed=7) > 0.5,
        "float matrix": torch.zeros(QUERIES, KEYS).masked_fill(~allowed[0, 0], -math.inf),
        "float lowest": torch.zeros(QUERIES, KEYS).masked_fill(~(random(QUERIES, KEYS) > 0.5), -3e38),
        "float rows": random(QUERIES, 1, seed=8),
        "float per item": random(2, 1, 1, KEYS, seed=9),
        "nothing": torch.zeros(1, dtype=torch.bool),
    }


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("device", DEVICES)
def test_masks_extend_the_weights(device, head_dim, dtype, kind):
    q, k, v = inputs(device, dtype, head_dim)
    mask = masks()[kind].to(device)
    if mask.dtype != torch.bool:
        mask = mask.to(dtype)
    groups = [(0, 20, 1.0), (20, 40, log_weights().to(device)), (40, 50, -math.inf)]
    out = check(q, k, v, groups, mask, TOLERANCE[device, dtype])
    assert out.isfinite().all()
    check(q, k, v, [(0, 20, 1.0)], mask, TOLERANCE[device, dtype])
    check(q, k, v, [], mask, TOLERANCE[device, dtype])


def test_a_mask_that_allows_all_changes_nothing():
    q, k, v = inputs()
    groups = [(0, 20, 1.0), (20, 40, log_weights(batch=2))]
    expected = weighted_attention(q, k, v, groups)
    for mask in (torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.zeros(QUERIES, KEYS)):
        torch.testing.assert_close(weighted_attention(q, k, v, groups, mask=mask), expected, atol=5e-6, rtol=5e-6)


def test_augmented_heads_equal_the_merge_and_extend_a_mask_of_numbers():
    q, k, v = inputs()
    mask = torch.randn(2, 1, QUERIES, KEYS, generator=torch.Generator().manual_seed(7))
    groups = [(0, 20, 1.0), (20, 40, log_weights(batch=2))]
    unmasked = weighted_attention_and_shares(q, k, v, groups)
    check(q, k, v, groups, mask, 5e-6)
    for found, expected in zip(
        weighted_attention_and_shares(q, k, v, groups, backend="augmented"), unmasked, strict=True
    ):
        torch.testing.assert_close(found, expected, atol=5e-6, rtol=5e-6)
