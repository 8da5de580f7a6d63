"""References that act in a part of the picture: any weights and shares per query against the float64 attention.

Shapes: B batch, H heads, L queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from attention_truth import check, inputs, on_all, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redux.attention import prepare_groups, weighted_attention
from redux.attention import weighted_attention_and_shares as with_shares

LENGTH = 67


def region(start: int, stop: int, *, inside: Callable[[int], Tensor] = torch.ones, batch: int = 0) -> Tensor:
    """Weights [L] or [B, L], 0 outside."""
    row_L = torch.zeros(LENGTH)
    row_L[start:stop] = inside(stop - start)
    return torch.stack([row_L.roll(7 * item) for item in range(batch)]) if batch else row_L


def numbers(count: int) -> Tensor:
    return 0.2 + torch.rand(count, generator=torch.Generator().manual_seed(count)) * 0.7


LEFT, RIGHT, SHARP = region(0, 30), region(25, 60, inside=numbers), region(30, 67, inside=numbers)
CASES = {
    "weights": [(0, 20, LEFT.log()), (20, 45, SHARP.log())],
    "overlap": [(0, 20, LEFT.log()), (20, 45, RIGHT.log()), (50, 60, 0.7)],
    "shares": [(0, 20, 0.0, LEFT), (20, 45, 0.5, SHARP)],
    "shares that overlap": [(0, 20, 0.0, LEFT), (20, 45, 0.0, RIGHT), (50, 60, 0.0, 0.3)],
    "both": [(0, 20, LEFT.log(), region(20, 45, inside=numbers)), (20, 45, region(10, 40).log(), 0.4)],
    "two of one share": [(0, 20, math.log(2), LEFT), (20, 45, 0.0, LEFT), (50, 60, region(3, 9).log())],
    "a batch": [(0, 20, region(0, 30, batch=2).log()), (20, 45, 0.0, region(40, 50, batch=2))],
    "heads": [(0, 20, LEFT.log() + numbers(3)[None, :, None]), (20, 45, 0.0, numbers(6).reshape(2, 3, 1))],
    "every key": [(0, 40, LEFT.log()), (40, 101, region(20, 50).log())],
    "every key, shares": [(0, 40, 0.0, LEFT), (40, 101, region(20, 50).log(), region(0, 40, inside=numbers))],
}


@on_all
@pytest.mark.parametrize("name", CASES)
def test_equals_the_float64_attention(device, dtype, backend, head_dim, name):
    q, k, v = inputs(device, dtype, queries=LENGTH, head_dim=head_dim)
    plan = prepare_groups(CASES[name], k.shape[2], device)  # on the CPU, where they are looked into
    moved = [tuple(x.to(device) if isinstance(x, Tensor) else x for x in group) for group in CASES[name]]
    out, shares = check(q, k, v, moved, tolerance(device, dtype), backend=backend)
    for found, expected in zip(with_shares(q, k, v, plan, backend=backend), (out, shares), strict=True):
        torch.testing.assert_close(found, expected, atol=2 * tolerance(device, dtype), rtol=0)
    found = weighted_attention(q, k, v, plan, backend=backend)
    torch.testing.assert_close(found, out, atol=2 * tolerance(device, dtype), rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_regions(data):
    """The masks of references are drawn query by query here, fully masked rows and empty regions among them."""
    q, k, v = inputs(queries=LENGTH)
    edges = sorted(data.draw(st.lists(st.integers(0, 101), min_size=2, max_size=6, unique=True)))
    found = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        rows = data.draw(st.lists(st.sampled_from((0.0, 0.0, 0.0, 0.5, 1.0)), min_size=LENGTH, max_size=LENGTH))
        weight = torch.tensor(rows)
        kind = data.draw(st.sampled_from(("weight", "share", "both", "number")))
        log_weight = {"weight": weight.log(), "both": weight.log()}.get(kind, 0.3)
        share = {"share": weight, "both": weight.flip(0)}.get(kind, 0.6)
        found.append((start, stop, log_weight, share))
    check(q, k, v, found, 5e-6)
