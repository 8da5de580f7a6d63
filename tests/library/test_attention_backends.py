"""Which kernel serves weighted attention, how a bad one is found out, and which arguments are refused."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from redux.attention import available_backends, backends, prepare_groups, weighted_attention


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No kernel has been tried yet."""
    monkeypatch.setattr(backends, "_verdicts", {})
    monkeypatch.setattr(backends, "_announced", set())
    monkeypatch.delenv("REDUX_ATTENTION", raising=False)
    return monkeypatch


def inputs(device: str = "cpu", dtype: torch.dtype = torch.float32, length: int = 60) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, length, 64, generator=generator).to(device, dtype) for _ in range(3))


def dense(q: Tensor, k: Tensor, v: Tensor, log_weight: float, stop: int) -> Tensor:
    logits = q.double() @ k.double().mT / 8
    logits[..., :stop] += log_weight
    return (logits.softmax(-1) @ v.double()).to(q.dtype)


GENUINE = backends.KERNELS["cpu"]


def spoil(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> backends.Kernel:
    """The CPU kernel with something wrong in what it returns."""
    return replace(GENUINE, run=lambda q, k, v, scale: change(*GENUINE.run(q, k, v, scale)))


def missing(*_: object) -> tuple[Tensor, Tensor]:
    raise AttributeError("no such operator")


BAD_KERNELS = {
    "base 2": (lambda out, lse: (out, lse / math.log(2)), "log-sum-exp differs"),
    "scaled": (lambda out, lse: (out, lse * 8), "log-sum-exp differs"),
    "one head": (lambda out, lse: (out, lse[:, :1]), "log-sum-exp has shape"),
    "nan": (lambda out, lse: (out, lse * math.nan), "log-sum-exp differs"),
    "wrong output": (lambda out, lse: (out * 1.5, lse), "output differs"),
    "other layout": (lambda out, lse: (out.transpose(1, 2), lse), "output has shape"),
    "absent": (missing, "no such operator"),
}


@pytest.mark.parametrize("kind", BAD_KERNELS)
def test_a_kernel_that_is_wrong_is_rejected_and_the_next_is_used(fresh, caplog, kind):
    change, reason = BAD_KERNELS[kind]
    fresh.setattr(backends, "KERNELS", {"spoilt": spoil(change), "cpu": GENUINE})
    q, k, v = inputs()
    with caplog.at_level(logging.DEBUG, logger="redux.attention.backends"):
        out = weighted_attention(q, k, v, [(0, 20, 1.0)])
        weighted_attention(q, k, v, [(0, 20, 2.0)])
    torch.testing.assert_close(out, dense(q, k, v, 1.0, 20), atol=2e-6, rtol=2e-6)
    assert available_backends("cpu", torch.float32, 64) == ("cpu", "augmented")
    assert [reason in record.message for record in caplog.records if "spoilt" in record.message] == [True]
    in_use = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert len(in_use) == 1 and in_use[0].endswith("backend cpu")
    with pytest.raises(ValueError, match="'spoilt' cannot be used.*usable are cpu, augmented"):
        weighted_attention(q, k, v, [(0, 20, 1.0)], backend="spoilt")


def test_without_any_kernel_augmented_heads_serve(fresh):
    fresh.setattr(backends, "KERNELS", {"spoilt": spoil(missing)})
    q, k, v = inputs()
    out = weighted_attention(q, k, v, [(0, 20, 1.0)])
    torch.testing.assert_close(out, dense(q, k, v, 1.0, 20), atol=2e-6, rtol=2e-6)


def test_padding_and_a_kept_axis_of_the_log_sum_exp_are_understood(fresh):
    q, k, v = inputs()
    expected = weighted_attention(q, k, v, [(0, 20, 1.0)])
    for change in (
        lambda out, lse: (out, torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)),
        lambda out, lse: (out, lse.unsqueeze(-1)),
    ):
        fresh.setattr(backends, "KERNELS", {"other": spoil(change)})
        assert available_backends("cpu", torch.float32, 64) == ("other", "augmented")
        assert torch.equal(weighted_attention(q, k, v, [(0, 20, 1.0)], backend="other"), expected)


def test_a_kernel_that_fails_at_some_shape_is_left_for_the_next(fresh, caplog):
    calls = Counter()

    def picky(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        calls["picky"] += 1
        if k.shape[2] == 40:
            raise RuntimeError("no plan for 40 keys\nand more")
        return GENUINE.run(q, k, v, scale)

    fresh.setattr(backends, "KERNELS", {"picky": replace(GENUINE, run=picky), "cpu": GENUINE})
    q, k, v = inputs()
    for log_weight in (1.0, 2.0):
        out = weighted_attention(q, k, v, [(0, 20, log_weight)])
        torch.testing.assert_close(out, dense(q, k, v, log_weight, 20), atol=2e-6, rtol=2e-6)
    assert "no plan for 40 keys" in caplog.text
    assert calls["picky"] == 2 + 2  # two of the probe, two of the first call, none of the second
    fresh.setattr(backends, "_verdicts", {})
    with pytest.raises(RuntimeError, match="the picky kernel failed .*no plan for 40 keys"):
        weighted_attention(q, k, v, [(0, 20, 1.0)], backend="picky")


def test_running_out_of_memory_does_not_condemn_a_kernel(fresh):
    def hungry(*_: object) -> tuple[Tensor, Tensor]:
        raise torch.cuda.OutOfMemoryError("full")

    fresh.setattr(backends, "KERNELS", {"hungry": replace(GENUINE, run=hungry)})
    with pytest.raises(torch.cuda.OutOfMemoryError):
        weighted_attention(*inputs(), [(0, 20, 1.0)])
    assert not backends._verdicts


def test_a_backend_can_be_forced(fresh):
    used = Counter()

    def counting(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        used["second"] += 1
        return GENUINE.run(q, k, v, scale)

    fresh.setattr(backends, "KERNELS", {"cpu": GENUINE, "second": replace(GENUINE, run=counting)})
    q, k, v = inputs()
    weighted_attention(q, k, v, [(0, 20, 1.0)])
    assert not used
    weighted_attention(q, k, v, [(0, 20, 1.0)], backend="second")
    probed = used["second"] - 2
    fresh.setenv("REDUX_ATTENTION", "second")
    weighted_attention(q, k, v, [(0, 20, 1.0)])
    assert used["second"] == probed + 4
    weighted_attention(q, k, v, [(0, 20, 1.0)], backend="cpu")
    assert used["second"] == probed + 4
    fresh.setenv("REDUX_ATTENTION", "bias")  # the former name of the augmented heads
    weighted_attention(q, k, v, [(0, 20, 1.0)])
    assert used["second"] == probed + 4
    fresh.setenv("REDUX_ATTENTION", "fastest")
    with pytest.raises(ValueError, match="no attention backend 'fastest'; use one of cpu, second, augmented"):
        weighted_attention(q, k, v, [])


def test_each_dtype_and_head_size_is_probed_by_itself(fresh):
    assert available_backends("cpu", torch.float32, 64)[0] == "cpu"
    assert available_backends("cpu", torch.float8_e4m3fn, 64) == ("augmented",)
    situations = {situation for _, situation in backends._verdicts}
    assert {(s.dtype, s.head_dim) for s in situations} == {(torch.float32, 64), (torch.float8_e4m3fn, 64)}


GROUPS_THAT_ARE_WRONG = [
    ([(0, 200, 0.0)], "covers keys 0 to 200"),
    ([(-1, 3, 0.0)], "covers keys -1"),
    ([(5, 3, 0.0)], "covers keys 5 to 3"),
    ([(0, 10, 0.0), (9, 12, 0.0)], "inside group 0"),
    ([(0, 10, math.nan)], "log weight of nan"),
    ([(0, 10, math.inf)], "log weight of inf"),
    ([(0, 10, torch.tensor([math.nan] + [0.0] * 59))], "log weight of nan"),
    ([(0, 10, torch.zeros(59))], "59 queries"),
    ([(0, 10, torch.zeros(3, 60))], "batch 3"),
    ([(0, 10, torch.zeros(2, 4, 60))], "heads 4"),
    ([(0, 10, torch.zeros(1, 2, 3, 60))], "shape"),
]


@pytest.mark.parametrize(("groups", "message"), GROUPS_THAT_ARE_WRONG)
def test_groups_that_cannot_be_meant_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        weighted_attention(*inputs(), groups)


def test_inputs_that_do_not_fit_are_refused():
    q, k, v = inputs()
    plan = prepare_groups([(0, 20, 1.0)], 60)
    for bad in ((q[0], k, v), (q, k[:, :2], v), (q, k, v[:, :, :9]), (q[..., :32], k, v), (q, k.half(), v)):
        with pytest.raises(ValueError):
            weighted_attention(*bad, plan)
    with pytest.raises(ValueError, match="prepared for 60 keys, but there are 50"):
        weighted_attention(q, k[:, :, :50], v[:, :, :50], plan)
    with pytest.raises(ValueError, match="does not broadcast"):
        weighted_attention(q, k, v, plan, mask=torch.zeros(59, 60))
