"""Shares of the natural attention against a float64 mixture, on every backend that the machine has.

Shapes: B batch, H heads, L queries, K keys, D head size, G groups.
"""

from __future__ import annotations

import math

import pytest
import torch
from attention_truth import KEYS, QUERIES, check, inputs, on_all, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redux.attention import prepare_groups, weighted_attention, weighted_attention_and_shares


def random(*shape: int, seed: int = 1, device: str = "cpu") -> Tensor:
    """Shares, a fifth of them 0 and a fifth 1."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 1.66 - 0.33
    return values.clamp(0, 1).to(device)


@on_all
@pytest.mark.parametrize("count", range(1, 6))
def test_equals_the_float64_mixture(device, dtype, backend, head_dim, count):
    q, k, v = inputs(device, dtype, head_dim=head_dim, seed=count)
    shares = [
        0.4,
        random(QUERIES, device=device),
        random(2, QUERIES, device=device),
        0.9,
        random(2, 3, 1, device=device),
    ]
    logs = [0.0, math.log(3), torch.randn(QUERIES).to(device), -math.inf, torch.randn(1, 3, 1).to(device)]
    groups = [(index * 13, index * 13 + 13 - index, logs[index], shares[index]) for index in range(count)]
    check(q, k, v, groups, tolerance(device, dtype), backend=backend)


@on_all
def test_one_share_is_a_straight_line(device, dtype, backend, head_dim):
    """The formula in one line: s p O_i + (1 - s p) O_rest, for groups of one share wherever they stand."""
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    limit = tolerance(device, dtype)
    for groups in ([(0, 29)], [(0, 29), (29, 40)], [(3, 20), (60, 80)]):
        ends = [
            weighted_attention(q, k, v, [(*keys, 0.0, share) for keys in groups], backend=backend).double()
            for share in (0.0, 1.0)
        ]
        for share in (0.1, 0.5, 0.97):
            found = weighted_attention(q, k, v, [(*keys, 0.0, share) for keys in groups], backend=backend)
            torch.testing.assert_close(found.double(), torch.lerp(*ends, share), atol=limit, rtol=limit)


@on_all
def test_ends_are_bit_for_bit_no_keys_and_plain_attention(device, dtype, backend, head_dim):
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    without = weighted_attention(q, k[:, :, 29:].contiguous(), v[:, :, 29:].contiguous(), [], backend=backend)
    plain = weighted_attention(q, k, v, [], backend=backend)
    for share in (1.0, torch.ones(QUERIES, device=device), torch.ones(2, 3, 1, device=device)):
        for value, expected in ((share, plain), (share * 0, without)):
            plan = prepare_groups([(0, 29, 0.0, value)], KEYS)
            assert torch.equal(weighted_attention(q, k, v, plan, backend=backend), expected)
    both = [(0, 29, 0.0, 0.0), (29, 40, 0.0, 1.0)]
    assert torch.equal(weighted_attention(q, k, v, both, backend=backend), without)


@on_all
def test_where_nothing_remains_there_are_zeros(device, dtype, backend, head_dim):
    """Queries that may read nothing but groups with a share get that share of them, the rest being zeros."""
    q, k, v = inputs(device, dtype, head_dim=head_dim)
    limit = tolerance(device, dtype)
    _, shares = check(q, k, v, [(0, KEYS, 0.0, 0.3)], limit, backend=backend)
    torch.testing.assert_close(shares.sum(1), torch.full_like(shares[:, 0], 0.3), atol=1e-5, rtol=0)
    dead = torch.zeros(QUERIES, device=device)
    dead[40:50] = -math.inf
    for share in (0.3, random(QUERIES, device=device)):
        out, _ = check(q, k, v, [(0, 50, dead, share), (50, KEYS, dead)], limit, backend=backend)
        assert not out[:, :, 40:50].any() and out[:, :, :40].any()
        check(q, k, v, [(0, 50, 0.0, share), (50, KEYS, dead)], limit, backend=backend)
        check(q, k, v, [(0, 30, dead, 0.5), (30, 50, 0.0, share), (50, KEYS, dead)], limit, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks_are_kept(dtype):
    q, k, v = inputs(dtype=dtype)
    limit = tolerance("cpu", dtype)
    allowed = torch.rand(2, 3, QUERIES, KEYS, generator=torch.Generator().manual_seed(6)) > 0.5
    allowed[0, :, 5] = False
    allowed[1, 1, 6, 40:] = False
    for share in (0.3, random(QUERIES), random(2, 3, 1)):
        groups = [(0, 20, 1.0, share), (20, 40, random(2, QUERIES), 0.7), (50, 60, 0.0)]
        for mask in (allowed, allowed[:1, :1], torch.zeros(allowed.shape).masked_fill(~allowed, -math.inf).to(dtype)):
            out, _ = check(q, k, v, groups, limit, mask=mask)
            assert out.isfinite().all()


@pytest.mark.parametrize("backend", [None, "augmented"])
def test_groups_that_vanish_leave_the_others_as_if_they_had_never_been(backend):
    """Continuous at 0 with several: a second reference that fades out gives its place to the first."""
    q, k, v = inputs()
    without = weighted_attention(q, k[:, :, 20:], v[:, :, 20:], [(0, 30, 0.0, 0.6)], backend=backend)
    errors = []
    for share in (0.1, 0.01, 0.001, 1e-6):
        found = weighted_attention(q, k, v, [(0, 20, 0.0, share), (20, 50, 0.0, 0.6)], backend=backend)
        errors.append(float((found - without).abs().max()))
    assert errors[1] == pytest.approx(errors[0] / 10, rel=1e-2) and errors[2] == pytest.approx(
        errors[0] / 100, rel=1e-2
    )
    assert errors[3] < 2e-6


@pytest.mark.parametrize("backend", [None, "augmented"])
def test_cut_or_joined_groups_of_one_share_are_the_same(backend):
    q, k, v = inputs()
    share = random(QUERIES)
    one = weighted_attention(q, k, v, [(0, 40, 0.0, share), (40, 60, 0.0, 0.5)], backend=backend)
    cut = [(0, 13, 0.0, share), (13, 40, 0.0, share), (40, 47, 0.0, 0.5), (47, 60, 0.0, 0.5)]
    plan = prepare_groups(cut, KEYS)
    assert len(plan.joined) == 3 and len(plan.tracked) == 5
    assert torch.equal(weighted_attention(q, k, v, plan, backend=backend), one)
    apart = [(0, 13, 0.0, share), (13, 40, 0.0, share.clone()), *cut[2:]]
    torch.testing.assert_close(weighted_attention(q, k, v, apart, backend=backend), one, atol=2e-6, rtol=2e-6)


def test_shares_and_output_are_monotone_in_the_share():
    q, k, v = inputs()
    for others in ([], [(40, 60, 0.0, 0.5)], [(40, 60, 0.5, random(QUERIES))]):
        shares = [
            weighted_attention_and_shares(q, k, v, [(0, 29, 0.0, value), *others])[1][:, 0]
            for value in (0.0, 0.01, 0.3, 0.5, 0.7, 0.99, 1.0)
        ]
        assert (torch.stack(shares).diff(dim=0) > 0).all()


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (-0.1, "share of -0.1; numbers from 0 to 1"),
        (1.5, "share of 1.5"),
        (math.nan, "share of nan"),
        (torch.tensor([0.5] * 82 + [math.nan]), "share of nan"),
        (torch.full((1, 1, 2, 83), 0.5), r"a share of shape \(1, 1, 2, 83\); a number"),
        (torch.linspace(0, 1, 82), "82 queries"),
        (torch.linspace(0, 1, 4)[None, :, None], "heads 4"),
    ],
)
def test_wrong_shares_are_refused(share, message):
    q, k, v = inputs()
    with pytest.raises(ValueError, match=message):
        weighted_attention(q, k, v, [(0, 29, 0.0, share)])


kinds = st.one_of(st.sampled_from([0.0, 1.0, "query", "item", "head", "all"]), st.floats(0, 1))


@settings(max_examples=150, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 40), min_size=2, max_size=7),
    queries=st.integers(1, 20),
    kinds=st.lists(st.tuples(kinds, kinds), min_size=6, max_size=6),
    backend=st.sampled_from([None, "augmented"]),
    seed=st.integers(0, 1000),
)
def test_any_groups_equal_the_mixture(cuts, queries, kinds, backend, seed):
    q, k, v = inputs(queries=queries, keys=40, seed=seed)
    shapes = {"query": (queries,), "item": (2, queries), "head": (1, 3, 1), "all": (2, 3, queries)}
    cuts = sorted(cuts)
    groups = []
    for index, (start, stop, pair) in enumerate(zip(cuts, cuts[1:], kinds, strict=False)):
        weight, share = (
            random(*shapes[x], seed=seed + index + number) if isinstance(x, str) else torch.tensor(x)
            for number, x in enumerate(pair)
        )
        groups.append((start, stop, (2 * weight).log(), share))
    check(q, k, v, groups[::-1], 5e-6, backend=backend)
