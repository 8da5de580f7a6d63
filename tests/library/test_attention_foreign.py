"""Kernels without a log-sum-exp: whether weights reach them exactly, and when they are chosen.

Shapes: B batch, H heads, L queries, K keys, D head size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from redux.attention import (
    ForeignKernel,
    backends,
    choice,
    prepare_groups,
    weighted_attention,
    weighted_attention_and_shares,
)
from redux.attention.foreign import AUGMENTED, BIAS, PLAIN, WIDE, foreign_attention, forms

KEYS, OWN = 300, 60  # the first queries are the references' own
GENERATOR = torch.Generator().manual_seed(3)


def behind(weight: float | Tensor) -> Tensor:
    """A weight for the queries behind the references."""
    weight_L = torch.ones(KEYS)
    weight_L[OWN:] = weight
    return weight_L


REGION = torch.rand(KEYS - OWN, generator=GENERATOR)
REGION[40:90] = 0
PLANS: dict[str, list[Any]] = {
    "numbers": [(0, 30, 1.0), (30, 60, -2.0)],
    "strengths": [(0, 30, behind(0.3).log()), (30, 60, behind(2.0).log())],
    "a zero": [(0, 30, behind(0.0).log()), (30, 60, behind(0.5).log())],
    "regions": [(0, 30, behind(REGION).log()), (30, 60, behind(REGION.flip(0)).log())],
    "even": [(0, 60, 0.0, behind(0.4))],
    "unequal even": [(0, 20, 0.0, behind(0.4)), (20, 40, 0.5, 0.7), (40, 60, 0.0, behind(0.1))],
    "even regions": [(0, 30, 0.0, behind(REGION)), (30, 60, 0.0, behind(REGION.flip(0)))],
    "rows of a batch": [(0, 30, torch.stack((behind(0.2), behind(0.9))).log())],
    "heads": [(0, 30, torch.tensor([0.1, 1.0, 3.0]).log().reshape(1, 3, 1))],
    "nothing for some": [(0, KEYS, behind(REGION).log())],
}
FORMS = {
    "numbers": BIAS,
    "strengths": BIAS,
    "a zero": BIAS,
    "regions": AUGMENTED,
    "even": PLAIN,
    "unequal even": BIAS,
    "even regions": AUGMENTED,
    "rows of a batch": AUGMENTED,
    "heads": AUGMENTED,
    "nothing for some": AUGMENTED,
}


def inputs(head_dim: int = 64, dtype: torch.dtype = torch.float32, size: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, KEYS, 3, head_dim, generator=generator).transpose(1, 2) for _ in "qkv")
    return (q * size).to(dtype), (k * size).to(dtype), v.to(dtype)


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def int8(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    """As INT8 kernels compute: heads padded to a power of two and rotated, blocks of rows with one step each."""
    scale, width = q.shape[-1] ** -0.5 if scale is None else scale, q.shape[-1]
    size = 1 << (width - 1).bit_length()
    turn_DD = torch.ones(1, 1)
    while len(turn_DD) < size:
        turn_DD = torch.cat((torch.cat((turn_DD, turn_DD), 1), torch.cat((turn_DD, -turn_DD), 1))) / math.sqrt(2)
    q, k = (_in_steps(torch.nn.functional.pad(x, (0, size - width)) @ turn_DD) for x in (q, k))
    logits = q @ k.mT * scale
    weights = ((logits if bias is None else logits + bias) - logits.amax(-1, keepdim=True)).softmax(-1)
    step = v.abs().amax(2, keepdim=True) / 127
    return weights @ ((v / step).round() * step)


def _in_steps(x_BHLD: Tensor, rows: int = 60) -> Tensor:
    blocks = x_BHLD.unflatten(2, (-1, rows)) if x_BHLD.shape[2] % rows == 0 else x_BHLD[:, :, None]
    step = blocks.abs().amax((-1, -2), keepdim=True) / 127
    return ((blocks / step).round() * step).flatten(2, 3)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing measured, refused or announced yet."""
    monkeypatch.setattr(choice, "_measured", {})
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: CLOCK[0]))
    monkeypatch.setattr(backends, "_verdicts", dict(backends._verdicts))
    monkeypatch.setattr(backends, "_announced", set())
    monkeypatch.delenv("REDUX_ATTENTION", raising=False)
    return monkeypatch


def slow(patch: pytest.MonkeyPatch) -> None:
    """Our kernel takes 10 s, by a clock that only kernels move."""
    kernel = backends.KERNELS["cpu"]
    patch.setitem(backends.KERNELS, "cpu", replace(kernel, run=lambda *args: spend(10.0) or kernel.run(*args)))


CLOCK = [0.0]


def spend(seconds: float) -> None:
    CLOCK[0] += seconds


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", PLANS)
def test_each_form_is_exact(name: str) -> None:
    q, k, v = inputs()
    plan = prepare_groups(PLANS[name], KEYS)
    expected = weighted_attention(q.double(), k.double(), v.double(), PLANS[name], backend="augmented")
    kernel = ForeignKernel("stand-in", exact, takes_bias=True)
    found = forms(kernel, plan, KEYS)
    assert found[0] == FORMS[name]
    for form in found:
        assert off(foreign_attention(q, k, v, plan, None, kernel, form).double(), expected) < 2e-6
    assert BIAS not in forms(ForeignKernel("stand-in", exact), plan, KEYS)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("size", [1.0, 3.0])
def test_a_kernel_that_quantises_is_as_exact_with_weights(name: str, size: float) -> None:
    """Also where a weight is 0, since its entries are of one size with those of the heads."""
    q, k, v = inputs(128, size=size)
    plan = prepare_groups(PLANS[name], KEYS)
    usual = off(int8(q, k, v, None, None), exact(q, k, v, None, None))
    expected = weighted_attention(q, k, v, plan)
    kernel = ForeignKernel("INT8", int8, takes_bias=True)
    for form in forms(kernel, plan, KEYS):
        error = off(foreign_attention(q, k, v, plan, None, kernel, form), expected)
        assert error < choice.MORE * usual


def fused(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    """As kernels compute in half precision: logits and sums in fp32, probabilities and the output rounded."""
    logits = q.float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    logits = logits if bias is None else logits + bias
    part = (logits - logits.amax(-1, keepdim=True)).exp()
    return (part.to(q.dtype).float() @ v.float() / part.sum(-1, keepdim=True)).to(q.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PLANS)
def test_half_precision_rounds_no_weight(name: str, dtype: torch.dtype) -> None:
    """Against float64 the error is that of the same kernel without weights."""
    q, k, v = inputs(128, dtype, size=2.0)
    wide = q.double(), k.double(), v.double()
    usual = off(fused(q, k, v, None, None).double(), exact(*wide, None, None))
    plan = prepare_groups(PLANS[name], KEYS)
    expected = weighted_attention(*wide, PLANS[name], backend="augmented")
    kernel = ForeignKernel("stand-in", fused, takes_bias=True)
    for form in forms(kernel, plan, KEYS):
        assert off(foreign_attention(q, k, v, plan, None, kernel, form).double(), expected) < choice.MORE * usual


def announced(caplog: pytest.LogCaptureFixture) -> str:
    return [record.message for record in caplog.records if "backend" in record.message][-1]


@pytest.mark.parametrize("name", ["strengths", "regions", "even", "unequal even"])
def test_it_serves_where_it_is_faster(fresh: pytest.MonkeyPatch, caplog: Any, name: str) -> None:
    q, k, v = inputs()
    plan = prepare_groups(PLANS[name], KEYS)
    expected = weighted_attention(q, k, v, plan)
    slow(fresh)
    calls: list[Any] = []

    def attend(*args: Any) -> Tensor:
        calls.append(args[-1])
        return exact(*args)

    with caplog.at_level(logging.INFO, logger="redux.attention.backends"):
        found = weighted_attention(q, k, v, plan, kernel=ForeignKernel("stand-in", attend, takes_bias=True))
        measured = len(calls)
        again = weighted_attention(q, k, v, plan, kernel=ForeignKernel("stand-in", attend, takes_bias=True))
    assert off(found, expected) < 2e-6 and torch.equal(again, found)
    assert len(calls) - measured < measured / 4, "measured once"
    assert "backend stand-in of the host, " in announced(caplog) and "ms by cpu" in announced(caplog)
    assert sum("backend" in record.message for record in caplog.records) == 1


def test_its_function_is_that_of_each_call(fresh: pytest.MonkeyPatch) -> None:
    """What was measured holds for the name; what is bound to a call is the call's."""
    q, k, v = inputs()
    slow(fresh)
    weighted_attention(q, k, v, PLANS["numbers"], kernel=ForeignKernel("stand-in", exact, takes_bias=True))
    other = ForeignKernel("stand-in", lambda q, k, v, *_: torch.full_like(q, 7.0), takes_bias=True)
    assert (weighted_attention(q, k, v, PLANS["numbers"], kernel=other) == 7.0).all()


def fail(*_: Any) -> Tensor:
    raise RuntimeError("no such head size\nmore of it")


def too_coarse(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    """Right without weights; a bias is not what it was."""
    return exact(q, k, v, scale, None if bias is None else bias * 2)


REFUSED = {
    "failed (RuntimeError: no such head size)": fail,
    "without weights it is 1 off": lambda q, *_: torch.zeros_like(q),
    "gave the shape (1,)": lambda *_: torch.zeros(1),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_no_attention_is_left_out_with_a_reason(fresh: pytest.MonkeyPatch, caplog: Any, reason: str) -> None:
    q, k, v = inputs()
    plan = prepare_groups(PLANS["numbers"], KEYS)
    expected = weighted_attention(q, k, v, plan)
    with caplog.at_level(logging.INFO, logger="redux.attention.backends"):
        found = weighted_attention(q, k, v, plan, kernel=ForeignKernel("stand-in", REFUSED[reason], True))
    assert torch.equal(found, expected)
    assert "backend cpu (stand-in is not used: " in announced(caplog) and reason in announced(caplog)


def test_the_form_that_is_exact_is_taken(fresh: pytest.MonkeyPatch, caplog: Any) -> None:
    q, k, v = inputs()
    expected = weighted_attention(q, k, v, PLANS["numbers"])
    slow(fresh)
    with caplog.at_level(logging.INFO, logger="redux.attention.backends"):
        found = weighted_attention(q, k, v, PLANS["numbers"], kernel=ForeignKernel("coarse", too_coarse, True))
    assert off(found, expected) < 2e-6 and "augmented heads" in announced(caplog)


def test_heads_that_a_kernel_cannot_do(fresh: pytest.MonkeyPatch, caplog: Any) -> None:
    """One of 64 and 128 only."""

    def attend(q: Tensor, *args: Any) -> Tensor:
        assert q.shape[-1] in (64, 128)
        return exact(q, *args)

    q, k, v = inputs()
    expected = weighted_attention(q, k, v, PLANS["regions"])
    slow(fresh)
    with caplog.at_level(logging.INFO, logger="redux.attention.backends"):
        found = weighted_attention(q, k, v, PLANS["regions"], kernel=ForeignKernel("narrow", attend))
    assert off(found, expected) < 2e-6 and WIDE in announced(caplog)


def test_ours_stays_where_it_is_as_fast(fresh: pytest.MonkeyPatch, caplog: Any) -> None:
    def late(*args: Any) -> Tensor:
        spend(10.0)
        return exact(*args)

    q, k, v = inputs()
    expected = weighted_attention(q, k, v, PLANS["even"])
    with caplog.at_level(logging.INFO, logger="redux.attention.backends"):
        found = weighted_attention(q, k, v, PLANS["even"], kernel=ForeignKernel("late", late))
    assert torch.equal(found, expected) and "backend cpu (" in announced(caplog)


def test_one_that_fails_later_is_given_up(fresh: pytest.MonkeyPatch) -> None:
    q, k, v = inputs()
    plan = prepare_groups(PLANS["numbers"], KEYS)
    expected = weighted_attention(q, k, v, plan)
    kernel = backends.KERNELS["cpu"]
    slow(fresh)
    weighted_attention(q, k, v, plan, kernel=ForeignKernel("stand-in", exact, True))
    fresh.setitem(backends.KERNELS, "cpu", kernel)
    calls: list[int] = []

    def broken(*_: Any) -> Tensor:
        calls.append(1)
        raise RuntimeError("gone")

    for _ in range(3):
        assert torch.equal(weighted_attention(q, k, v, plan, kernel=ForeignKernel("stand-in", broken, True)), expected)
    assert len(calls) == 1


def test_ours_serve_what_it_cannot(fresh: pytest.MonkeyPatch) -> None:
    """Shares, gradients, and a mask of another node."""
    q, k, v = inputs()
    kernel = ForeignKernel("stand-in", fail, True)
    expected = weighted_attention_and_shares(q, k, v, PLANS["numbers"])
    found = weighted_attention_and_shares(q, k, v, PLANS["numbers"], kernel=kernel)
    assert all(map(torch.equal, found, expected))
    mask = torch.zeros(KEYS, KEYS)
    assert torch.isfinite(weighted_attention(q, k, v, PLANS["numbers"], kernel=kernel, mask=mask)).all()
    q.requires_grad_()
    weighted_attention(q, k, v, PLANS["numbers"], kernel=kernel).sum().backward()
    assert q.grad is not None


def test_kept_keys_are_read(fresh: pytest.MonkeyPatch) -> None:
    q, k, v = inputs()
    plan = prepare_groups([(0, 60, -1.0)], KEYS)
    expected = weighted_attention(q[:, :, 60:], k, v, plan)
    slow(fresh)
    kernel, kept = ForeignKernel("stand-in", exact, True), (k[:, :, :60], v[:, :, :60])
    found = weighted_attention(q[:, :, 60:], k[:, :, 60:], v[:, :, 60:], plan, kept=kept, kernel=kernel)
    assert off(found, expected) < 2e-6
