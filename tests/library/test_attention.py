"""Weighted attention against a float64 softmax over all keys, on every backend that the machine has.

Shapes: B batch, H heads, L queries, K keys, D head size, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redux.attention import available_backends, prepare_groups, weighted_attention, weighted_attention_and_shares

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Output and shares. fp32: a log-sum-exp near 18, as weights of 1e6 make it, is known to 2e-6 only. Half precision:
# the output is rounded to one unit for each group. TF32 may serve fp32 on a GPU.
TOLERANCE = {
    ("cpu", torch.float32): 5e-6,
    ("cuda", torch.float32): 2e-3,
    ("cpu", torch.float16): 2e-3,
    ("cuda", torch.float16): 4e-3,
    ("cpu", torch.bfloat16): 2e-2,
    ("cuda", torch.bfloat16): 3e-2,
}

CASES = [
    pytest.param(device, dtype, backend, head_dim, id=f"{device}-{str(dtype)[6:]}-{backend}-{head_dim}")
    for device in DEVICES
    for dtype in DTYPES
    for head_dim in (64, 128)
    for backend in available_backends(device, dtype, head_dim)
]
on_all = pytest.mark.parametrize(("device", "dtype", "backend", "head_dim"), CASES)
on_devices = pytest.mark.parametrize("device", DEVICES)


def reference(
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[tuple[int, int, float | Tensor]], scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Output [B, H, L, D] and shares [B, G + 1, L] in float64, with weights that multiply."""
    q, k, v = (x.detach().cpu().double() for x in (q, k, v))
    weight_BLK = torch.ones(q.shape[0], q.shape[2], k.shape[2], dtype=torch.float64)
    rest_K = torch.ones(k.shape[2], dtype=torch.bool)
    for start, stop, log_weight in groups:
        weight = torch.as_tensor(log_weight).cpu().double().exp()
        weight_BLK[:, :, start:stop] = weight.unsqueeze(-1) if weight.ndim else weight
        rest_K[start:stop] = False
    logits = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    part = (logits - logits.amax(-1, keepdim=True)).exp() * weight_BLK.unsqueeze(1)
    total = part.sum(-1, keepdim=True)
    part = torch.where(total > 0, part / total, 0.0)
    share_BLK = part.mean(1)
    columns = [share_BLK[..., start:stop].sum(-1) for start, stop, _ in groups] + [share_BLK[..., rest_K].sum(-1)]
    return part @ v, torch.stack(columns, dim=1)


def inputs(
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    queries: int = 83,
    keys: int = 101,
    head_dim: int = 64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(2, 3, length, head_dim) for length in (queries, keys, keys)]
    return tuple(torch.randn(size, generator=generator).to(device, dtype) for size in sizes)


def check(q: Tensor, k: Tensor, v: Tensor, groups: list, limit: float, **options: object) -> Tensor:
    """Output and shares against the reference, with and without shares asked for, nothing mutated; the shares."""
    before = [x.clone() for x in (q, k, v)]
    weights = [x.clone() if isinstance(x, Tensor) else x for _, _, x in groups]
    expected, expected_shares = reference(q, k, v, groups, options.get("scale"))
    plain = weighted_attention(q, k, v, groups, **options)
    out, shares = weighted_attention_and_shares(q, k, v, groups, **options)
    for found in (plain, out):
        assert found.dtype == q.dtype and shares.dtype == torch.float32
        torch.testing.assert_close(found.cpu().double(), expected, atol=limit, rtol=limit)
    torch.testing.assert_close(shares.cpu().double(), expected_shares, atol=limit, rtol=0)
    alive = (expected_shares.sum(1) > 0).float()
    torch.testing.assert_close(shares.cpu().sum(1), alive, atol=1e-5, rtol=0)
    for x, copy in zip((q, k, v), before, strict=True):
        assert torch.equal(x, copy)
    for (_, _, x), copy in zip(groups, weights, strict=True):
        assert not isinstance(x, Tensor) or torch.equal(x, copy)
    return shares


def rows(length: int, device: str = "cpu", batch: int | None = None, seed: int = 1) -> Tensor:
    """Log weights of weights 0 to 1e6, a third of them 0."""
    generator = torch.Generator().manual_seed(seed)
    shape = (length,) if batch is None else (batch, length)
    weight = torch.rand(shape, generator=generator) ** 8 * 1e6
    return (weight * (torch.rand(shape, generator=generator) > 1 / 3)).log().to(device)


@on_all
@pytest.mark.parametrize("num_groups", range(1, 7))
def test_equals_the_dense_reference(device, dtype, backend, head_dim, num_groups):
    q, k, v = inputs(device, dtype, head_dim=head_dim, seed=num_groups)
    kinds = [math.log(0.4), rows(83, device), -math.inf, math.log(1e6), rows(83, device, batch=2), rows(83, device, 1)]
    groups = [(index * 13, index * 13 + 13 - index, kinds[index]) for index in range(num_groups)]
    check(q, k, v, groups, TOLERANCE[device, dtype], backend=backend)


@on_all
@pytest.mark.parametrize("weight", [0.0, 1e-6, 0.05, 1.0, 2.0, 1e6])
def test_a_single_weight(device, dtype, backend, head_dim, weight):
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    log_weight = math.log(weight) if weight else -math.inf
    check(q, k, v, [(0, 29, log_weight)], TOLERANCE[device, dtype], backend=backend)


@on_all
def test_queries_without_any_weight_give_zeros(device, dtype, backend, head_dim):
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    first, second = rows(83, device, batch=2), rows(83, device, batch=2, seed=2)
    first[:, 40:50], second[:, 40:50] = -math.inf, -math.inf
    first[1], second[1] = -math.inf, -math.inf
    groups = [(0, 50, first), (50, 101, second)]
    shares = check(q, k, v, groups, TOLERANCE[device, dtype], backend=backend)
    out = weighted_attention(q, k, v, groups, backend=backend)
    assert not out[0, :, 40:50].any() and not out[1].any() and not shares[1].any()
    assert out[0, :, :40].any()


@on_all
def test_views_and_scale(device, dtype, backend, head_dim):
    packed = torch.randn(2, 83, 3, 3, head_dim, generator=torch.Generator().manual_seed(4)).to(device, dtype)
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    check(q, k, v, [(0, 29, 1.0)], TOLERANCE[device, dtype], backend=backend, scale=0.2)
    wide = torch.randn(3, 2, 3, head_dim, 83, generator=torch.Generator().manual_seed(5)).to(device, dtype)
    q, k, v = wide.transpose(-1, -2)  # the head size is not the innermost axis
    check(q, k, v, [(0, 29, 1.0)], TOLERANCE[device, dtype], backend=backend)


@on_all
def test_one_key_and_one_query(device, dtype, backend, head_dim):
    usable = available_backends(device, dtype, head_dim, tiny=True)
    if backend not in usable:
        pytest.skip(f"{backend} does not do single keys or queries here; the library takes one of {usable}")
    limit = TOLERANCE[device, dtype]
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    check(q, k, v, [(0, 1, 2.0), (1, 2, rows(83, device))], limit, backend=backend)
    q, k, v = inputs(device, dtype, queries=1, head_dim=head_dim)
    check(q, k, v, [(0, 7, 2.0)], limit, backend=backend)


@on_devices
def test_the_rest_may_be_scattered_or_missing(device):
    q, k, v = inputs(device)
    limit = TOLERANCE[device, torch.float32]
    check(q, k, v, [(30, 40, 1.0), (10, 20, -0.5), (60, 80, rows(83, device))], limit)
    check(q, k, v, [(0, 60, 1.0), (60, 101, -0.5)], limit)
    check(q, k, v, [], limit)


@on_devices
def test_empty_groups_and_empty_tensors(device):
    q, k, v = inputs(device)
    limit = TOLERANCE[device, torch.float32]
    check(q, k, v, [(0, 0, 3.0), (20, 20, rows(83, device)), (5, 9, 1.0), (101, 101, -math.inf)], limit)
    for backend in (None, "augmented"):
        out, shares = weighted_attention_and_shares(q, k, v, [(0, 101, -math.inf)], backend=backend)
        assert not out.any() and not shares.any() and shares.shape == (2, 2, 83)
        out = weighted_attention(q, k[:, :, :0], v[:, :, :0], [], backend=backend)
        assert out.shape == q.shape and not out.any()
        out, shares = weighted_attention_and_shares(q[:, :, :0], k, v, [(0, 9, 1.0)], backend=backend)
        assert out.shape == (2, 3, 0, 64) and shares.shape == (2, 2, 0)


@on_all
def test_an_integer_weight_equals_repeated_keys(device, dtype, backend, head_dim):
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    repeated = [torch.cat([x[:, :, :29]] * 4 + [x], dim=2) for x in (k, v)]
    expected = F.scaled_dot_product_attention(q, *repeated)
    found = weighted_attention(q, k, v, [(0, 29, math.log(5))], backend=backend)
    limit = TOLERANCE[device, dtype]
    torch.testing.assert_close(found, expected, atol=limit, rtol=limit)


@on_all
def test_weight_zero_is_bit_for_bit_no_keys_and_weight_one_plain_attention(device, dtype, backend, head_dim):
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    without = weighted_attention(q, k[:, :, 29:].contiguous(), v[:, :, 29:].contiguous(), [], backend=backend)
    assert torch.equal(weighted_attention(q, k, v, [(0, 29, -math.inf)], backend=backend), without)
    dead = torch.full((83,), -math.inf, device=device)
    assert torch.equal(weighted_attention(q, k, v, prepare_groups([(0, 29, dead)], 101), backend=backend), without)
    plain = weighted_attention(q, k, v, [], backend=backend)
    assert torch.equal(weighted_attention(q, k, v, [(0, 29, 0.0), (29, 40, 0.0)], backend=backend), plain)
    torch.testing.assert_close(plain, F.scaled_dot_product_attention(q, k, v), atol=2e-2, rtol=2e-2)


@on_devices
def test_shares_and_output_are_monotone_in_the_weight(device):
    q, k, v = inputs(device)
    alone = weighted_attention(q, k[:, :, :29], v[:, :, :29], [])
    shares, distances = [], []
    for log_weight in (-20.0, -3.0, -0.5, 0.0, 0.5, 3.0, 20.0):
        out, share = weighted_attention_and_shares(q, k, v, [(0, 29, log_weight)])
        shares.append(share[:, 0])
        distances.append((out - alone).norm(dim=-1))
    assert (torch.stack(shares).diff(dim=0) > 0).all()
    assert (torch.stack(distances).diff(dim=0) < 0).all()


log_weights = st.one_of(
    st.just(-math.inf),
    st.just(0.0),
    st.floats(min_value=-14, max_value=14),
    st.sampled_from(["per query", "per item", "same for all items"]),
)


@settings(max_examples=200, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 40), min_size=2, max_size=9),
    queries=st.integers(1, 40),
    kinds=st.lists(log_weights, min_size=8, max_size=8),
    kept=st.lists(st.booleans(), min_size=8, max_size=8),
    backend=st.sampled_from([None, "augmented"]),
    seed=st.integers(0, 1000),
)
def test_any_groups_equal_the_dense_reference(cuts, queries, kinds, kept, backend, seed):
    q, k, v = inputs(queries=queries, keys=40, seed=seed)
    batches = {"per query": None, "per item": 2, "same for all items": 1}
    cuts = sorted(cuts)
    groups = [
        (start, stop, rows(queries, batch=batches[kind], seed=seed) if isinstance(kind, str) else kind)
        for start, stop, kind, keep in zip(cuts, cuts[1:], kinds, kept, strict=False)
        if keep
    ]
    check(q, k, v, groups[::-1], 5e-6, backend=backend)
