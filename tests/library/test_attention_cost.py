"""What a call of weighted attention costs in kernels and memory, and how it lives in torch's modes and compiler."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from redux.attention import (
    available_backends,
    backends,
    merge,
    prepare_groups,
    weighted_attention,
    weighted_attention_and_shares,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_devices = pytest.mark.parametrize("device", DEVICES)
KERNEL_CASES = [
    (device, backend)
    for device in DEVICES
    for backend in available_backends(device, torch.bfloat16, 64)
    if backend != "augmented"
]
GENUINE = backends.KERNELS["cpu"]


def inputs(device: str = "cpu", dtype: torch.dtype = torch.float32, length: int = 60) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, length, 64, generator=generator).to(device, dtype) for _ in range(3))


def kernel_calls(monkeypatch: pytest.MonkeyPatch, attend: Callable[..., object], *args: object) -> list[int]:
    """How many keys each kernel call of an attention has."""
    lengths = []

    def listing(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        lengths.append(k.shape[2])
        assert k.untyped_storage().data_ptr() == args[1].untyped_storage().data_ptr()  # a view, not a copy
        return GENUINE.run(q, k, v, scale)

    with monkeypatch.context() as patch:
        patch.setattr(backends, "KERNELS", {"cpu": replace(GENUINE, run=listing)})
        attend(*args)
    return lengths


def test_what_weighs_the_same_shares_a_kernel_call(monkeypatch):
    q, k, v = inputs()
    assert available_backends("cpu", torch.float32, 64)[0] == "cpu"  # probed before calls are listed
    region, dead = torch.rand(60), torch.full((60,), -math.inf)

    def calls(groups: object, attend: Callable[..., object] = weighted_attention, keys: int = 60) -> int:
        """How many there are; together they read each key that counts once."""
        lengths = kernel_calls(monkeypatch, attend, q, k, v, groups)
        assert sum(lengths) == keys
        return len(lengths)

    assert calls([]) == 1
    assert calls([(0, 20, 0.0), (20, 30, 0.0)]) == 1
    assert calls([(0, 20, 0.0), (20, 30, 0.0)], weighted_attention_and_shares) <= 3
    assert calls([(0, 20, 1.0), (20, 30, 0.0)]) <= 2
    assert calls([(0, 20, 1.0), (20, 30, 1.0)]) <= 2
    assert calls([(0, 20, region), (20, 30, region), (30, 35, region.clone())]) <= 3
    assert calls([(0, 20, -math.inf), (20, 30, dead)], keys=30) == 1
    assert calls([(0, 20, torch.full((60,), 0.5)), (20, 30, 0.5)]) <= 2
    assert calls([(5, 20, 1.0)]) <= 3
    plan = prepare_groups([(0, 20, 1.0), (20, 30, 0.0)], 60)
    assert calls(plan) <= 2 and calls(plan, weighted_attention_and_shares) <= 3


class LargestTensor(TorchDispatchMode):
    """Records the largest storage, in bytes, that any operator returned and that was not there before."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {x.untyped_storage().data_ptr() for x in known}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(("device", "backend"), KERNEL_CASES)
@pytest.mark.parametrize("attend", [weighted_attention, weighted_attention_and_shares])
def test_no_tensor_of_queries_times_keys_is_made(device, backend, attend):
    q, k, v = inputs(device, torch.bfloat16, length=2048)
    plan = prepare_groups([(0, 300, 1.0), (300, 500, torch.rand(2, 2048))], 2048, device)
    attend(q, k, v, plan, backend=backend)
    with LargestTensor(q, k, v) as record:
        attend(q, k, v, plan, backend=backend)
    output = q.numel() * q.element_size()
    assert record.largest == output < 2048 * 2048  # even one byte for each query and key would be more
    with LargestTensor(q, k, v) as record:
        weighted_attention(q, k, v, plan, backend="augmented")
    assert output < record.largest < 1.5 * output  # queries with their further entries
    with LargestTensor(q, k, v) as record:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=q.new_ones(2048, 2048))
    assert record.largest >= 2048 * 2048  # a mask is one, which this test must see


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA's memory statistics")
@pytest.mark.parametrize("backend", [backend for device, backend in KERNEL_CASES if device == "cuda"])
def test_no_more_than_four_outputs_exist_at_a_time(backend):
    q, k, v = inputs("cuda", torch.bfloat16, length=4096)
    if backend == "varlen":  # which copies the queries of a batch, to have them one behind the other
        q, k, v = q[:1], k[:1], v[:1]
    plan = prepare_groups([(700 * i, 700 * i + 700, 0.1 + i) for i in range(5)], 4096)
    weighted_attention(q, k, v, plan, backend=backend)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    weighted_attention(q, k, v, plan, backend=backend)
    torch.cuda.synchronize()
    output = q.numel() * q.element_size()
    assert torch.cuda.max_memory_allocated() - before < 4.6 * output  # the kernels' own scratch included


@pytest.mark.parametrize(("fuses", "most"), [(False, 2), (True, 4)])
def test_outputs_are_freed_as_they_are_merged(monkeypatch: pytest.MonkeyPatch, fuses: bool, most: int) -> None:
    """The same counted on any device, with torch in place of the kernel that merges."""
    assert available_backends("cpu", torch.float32, 64)[0] == "cpu"
    alive: list[weakref.ref] = []
    counts: list[int] = []

    def run(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        out, lse = GENUINE.run(q, k, v, scale)
        alive.append(weakref.ref(out))
        counts.append(sum(one() is not None for one in alive))
        return out, lse

    def fuse(parts: list[Tensor], logits: list[Tensor]) -> Tensor:
        shares = torch.stack(logits).softmax(0).unsqueeze(-1)
        parts[0].copy_(sum(share * part for share, part in zip(shares, parts, strict=True)))
        return torch.stack(logits).logsumexp(0)

    monkeypatch.setattr(backends, "KERNELS", {"cpu": replace(GENUINE, run=run)})
    monkeypatch.setattr(merge, "can_fuse", lambda _: fuses)
    monkeypatch.setattr(merge, "fuse_", fuse)
    q, k, v = inputs()
    groups = [(7 * i, 7 * i + 7, 0.1 + i) for i in range(7)]
    found = weighted_attention(q, k, v, groups)
    expected = weighted_attention(q, k, v, groups, backend="augmented")
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)
    assert len(counts) == 8 and max(counts) == most


@on_devices
def test_inference_mode_and_gradients(device):
    q, k, v = inputs(device)
    groups = [(0, 20, 1.0), (20, 30, torch.rand(60, device=device))]
    expected = weighted_attention(q, k, v, groups)
    with torch.inference_mode():
        assert torch.equal(weighted_attention(q, k, v, groups), expected)
    for x in (q, k, v):
        x.requires_grad_()
    with torch.no_grad():
        assert torch.equal(weighted_attention(q, k, v, groups), expected)
    out = weighted_attention(q, k, v, groups)
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=2e-3)
    found = torch.autograd.grad(out.square().sum(), (q, k, v))
    logits = q.double() @ k.double().mT / 8
    logits[..., :20] += 1.0
    logits[..., 20:30] += groups[1][2].double()[:, None]
    peer = (logits.softmax(-1) @ v.double()).float()
    for gradient, true in zip(found, torch.autograd.grad(peer.square().sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(gradient, true, atol=2e-3, rtol=2e-3)
    with pytest.raises(ValueError, match="cannot be used for .* with these inputs; usable are augmented"):
        weighted_attention(q, k, v, groups, backend=available_backends(device, torch.float32, 64)[0])


@pytest.mark.parametrize("keep_guards", [True, False])
@on_devices
def test_a_compiled_model_follows_a_changed_weight(device, keep_guards):
    def model(q: Tensor, k: Tensor, v: Tensor, options: dict) -> Tensor:
        return weighted_attention(q * 2, k, v, options["groups"]) + 1

    torch._dynamo.reset()
    options = {} if keep_guards else {"guard_filter_fn": lambda guards: [False] * len(guards)}
    compiled = (
        torch.compile(model, backend="eager", options=options) if options else torch.compile(model, backend="eager")
    )
    q, k, v = inputs(device)
    results = []
    for log_weight in (1.0, 3.0, -math.inf, torch.rand(60, device=device)):
        call = {"groups": [(0, 20, log_weight)]}
        results.append(compiled(q, k, v, call))
        assert torch.equal(results[-1], model(q, k, v, call))
    assert not torch.equal(results[0], results[1])
    torch._dynamo.reset()
