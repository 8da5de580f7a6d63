"""Queries that a group means nothing to do not ask it: fewer of them in the kernels, the same attention.

Shapes: B batch, H heads, L queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from attention_truth import check, inputs, on_all, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redux.attention import amounts, available_backends, backends, groups, prepare_groups, weighted_attention
from redux.attention import weighted_attention_and_shares as with_shares
from redux.reference import Reference
from redux.step_weights import Layout, StepWeights
from redux.tokens import Part

LENGTH = 67
GENUINE = backends.KERNELS["cpu"]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small."""
    monkeypatch.setattr(amounts, "MULTIPLE", 4)
    monkeypatch.setattr(groups, "WORTH", 0)


def region(start: int, stop: int, *, inside: Callable[[int], Tensor] = torch.ones, batch: int = 0) -> Tensor:
    """Weights [L] or [B, L], 0 outside."""
    row_L = torch.zeros(LENGTH)
    row_L[start:stop] = inside(stop - start)
    return torch.stack([row_L.roll(7 * item) for item in range(batch)]) if batch else row_L


def numbers(count: int) -> Tensor:
    return 0.2 + torch.rand(count, generator=torch.Generator().manual_seed(count)) * 0.7


def asked(monkeypatch: pytest.MonkeyPatch, attend: Callable[..., object], *args: object) -> list[tuple[int, int]]:
    """Queries and keys of each kernel call."""
    calls = []

    def listing(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        calls.append((q.shape[2], k.shape[2]))
        return GENUINE.run(q, k, v, scale)

    with monkeypatch.context() as patch:
        patch.setattr(backends, "KERNELS", {"cpu": replace(GENUINE, run=listing)})
        attend(*args)
    return sorted(calls)


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
    assert any(group.readers is not None for group in plan.joined)
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


def test_the_kernels_get_the_readers_only(monkeypatch):
    q, k, v = inputs(queries=LENGTH)
    assert available_backends("cpu", torch.float32, 64)[0] == "cpu"  # probed before calls are listed

    def calls(*given: tuple) -> list[tuple[int, int]]:
        return asked(monkeypatch, weighted_attention, q, k, v, list(given))

    weight = LEFT.log()
    assert calls((0, 20, weight), (20, 45, weight)) == [(32, 45), (LENGTH, 56)]
    assert calls((0, 20, 0.0, LEFT), (25, 45, 0.0)) == [(32, 20), (LENGTH, 81)]
    assert calls((0, 20, region(0, 60).log())) == [(LENGTH, 20), (LENGTH, 81)], "too many to be worth it"


def test_two_halves_cost_as_one_reference(monkeypatch):
    """In the plans of a sampling: each query asks the references of its half, and text all of them."""
    monkeypatch.undo()
    masks = torch.zeros(2, 1, 64, 64)
    masks[0, ..., :32], masks[1, ..., 32:] = 1, 1
    layout = Layout(256, 128, 128)  # a latent of 1 MP
    for response in ("even", "weight"):
        pair = tuple(Reference((Part(((27, 27),), 729),), 0.6, mask, response=response) for mask in masks)
        for kept in (False, True):
            weights = StepWeights(tuple((one, 0.6) for one in pair), layout, "cpu", kept=kept)
            own = 0 if kept else 2 * 729
            wanted = own + 256 + 2048  # its half of 64 x 64 tokens
            plan = weights.plan("double", 0)
            counts = [len(group.readers) for group in plan.joined if group.readers is not None]
            assert len(counts) == 2 and all(wanted <= count < wanted + amounts.MULTIPLE for count in counts)
    small = StepWeights(tuple((one, 0.6) for one in pair), Layout(8, 16, 16), "cpu").plan("double", 0)
    assert all(group.readers is None for group in small.joined), "not worth it"


def test_who_reads():
    found = amounts.find_readers(region(10, 21).log(), 1.0, None)
    assert len(found) == 12 and set(range(10, 21)) < set(found.tolist()) and found.tolist() == sorted(found.tolist())
    assert amounts.find_readers(0.0, region(10, 21, batch=2), None).numel() == 20  # 10..20 and 17..27
    assert amounts.find_readers(region(10, 30).log(), region(29, 40), None).tolist()[-1] == 29  # both must be
    for log_weight, share in (
        (0.0, 1.0),
        (region(0, 60).log(), 1.0),
        (torch.zeros(2, 3, 1), 0.5),
        (torch.zeros(0), 1.0),
    ):
        assert amounts.find_readers(log_weight, share, None) is None
    assert amounts.find_readers(torch.empty(LENGTH, device="meta"), 1.0, None) is None, "it would wait"
