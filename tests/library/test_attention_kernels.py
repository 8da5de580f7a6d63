"""Kernels of other packages, as stand-ins with the packages' functions and exact results, and the choice among ways."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from redux.attention import (
    backends,
    choice,
    operators,
    packages,
    prepare_groups,
    table,
    weighted_attention,
    weighted_attention_and_shares,
)

GENUINE = backends.KERNELS["cpu"]
CLOCK = [0.0]  # seconds, which only kernels move
Calls = list[tuple[str, int]]


def attend(q_BHLD: Tensor, k_BHKD: Tensor, v_BHKD: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    logits_BHLK = q_BHLD @ k_BHKD.mT * (q_BHLD.shape[-1] ** -0.5 if scale is None else scale)
    return logits_BHLK.softmax(-1) @ v_BHKD, logits_BHLK.logsumexp(-1)


def sageattn(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str, is_causal: bool, sm_scale: Any, return_lse: bool):
    assert (tensor_layout, is_causal, return_lse) == ("HND", False, True)
    return attend(q, k, v, sm_scale)


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, return_attn_probs=False):
    out, lse = attend(*(x.transpose(1, 2) for x in (q, k, v)), softmax_scale)
    return (out.transpose(1, 2), lse, None) if return_attn_probs else out.transpose(1, 2)


def memory_efficient_attention_forward_requires_grad(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None):
    out, lse = attend(*(x.transpose(1, 2) for x in (q, k, v)), scale)
    return out.transpose(1, 2), torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=math.inf)


STAND_INS = {
    "sage": ("sageattention", sageattn),
    "flash_attn": ("flash_attn", flash_attn_func),
    "xformers": ("xformers.ops", memory_efficient_attention_forward_requires_grad),
}


def provide(patch: pytest.MonkeyPatch, module: str, function: Callable[..., Any]) -> None:
    names = module.split(".")
    for length in range(1, len(names) + 1):
        made = ModuleType(".".join(names[:length]))
        made.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec(made.__name__, None)
        patch.setitem(sys.modules, made.__name__, made)
    setattr(made, function.__name__, function)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The packages' kernels, on the CPU; nothing tried, measured or listed yet."""
    kernels = {name: replace(kernel, device_type="cpu") for name, kernel in backends.KERNELS.items() if kernel.by_name}
    kernels = {
        name: replace(kernel, dtypes=kernel.dtypes | {torch.float32}, error=1.0) for name, kernel in kernels.items()
    }
    monkeypatch.setattr(backends, "KERNELS", {"cpu": GENUINE, **kernels})
    monkeypatch.setattr(backends, "_verdicts", {})
    monkeypatch.setattr(backends, "_announced", set())
    monkeypatch.setattr(choice, "_measured", {})
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: CLOCK[0]))
    monkeypatch.setattr(table, "rows", list)
    monkeypatch.delenv("REDUX_ATTENTION", raising=False)
    return monkeypatch


def inputs(length: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 64, generator=generator) for _ in range(3))
    return q, k, v


GROUPS = [(0, 10, 1.0), (10, 15, -2.0)]


def recorded(patch: pytest.MonkeyPatch, slow: tuple[str, ...] = ()) -> Calls:
    """The kernel and number of keys of each call; the slow ones take 10 s, the others nothing."""
    calls: Calls = []

    def wrap(name: str, kernel: backends.Kernel) -> backends.Kernel:
        def run(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
            calls.append((name, k.shape[2]))
            CLOCK[0] += 10.0 * (name in slow)
            return kernel.run(q, k, v, scale)

        return replace(kernel, run=run)

    patch.setattr(backends, "KERNELS", {name: wrap(name, kernel) for name, kernel in backends.KERNELS.items()})
    return calls


@pytest.mark.parametrize("name", STAND_INS)
def test_a_package_serves_where_it_is_forced(patch: pytest.MonkeyPatch, name: str) -> None:
    provide(patch, *STAND_INS[name])
    expected = weighted_attention(*inputs(), GROUPS)
    found = weighted_attention(*inputs(), GROUPS, backend=name)
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=5e-6)
    assert name not in backends.available_backends("cpu", torch.float32, 64), "but not of itself"


def test_flash_attention_3_comes_before_2(patch: pytest.MonkeyPatch) -> None:
    provide(patch, "flash_attn", lambda: None)
    provide(patch, "flash_attn_interface", flash_attn_func)
    q, k, v = inputs()
    torch.testing.assert_close(packages.flash_attn(q, k, v, 0.3)[1], attend(q, k, v, 0.3)[1])


@pytest.mark.parametrize("name", STAND_INS)
def test_a_package_that_is_missing_or_wrong_is_left_out_with_a_reason(
    patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    module, function = STAND_INS[name]
    expected = weighted_attention(*inputs(), GROUPS)
    broken = [None, lambda *_, **__: (torch.zeros(2, 3, 60, 64), torch.zeros(2, 3, 60)), lambda q: q]
    for replacement in broken:
        patch.setattr(backends, "_verdicts", {})
        patch.setattr(backends, "_announced", set())
        if replacement is None:
            patch.setitem(sys.modules, module, None)
        else:
            replacement.__name__ = function.__name__
            provide(patch, module, replacement)
        caplog.clear()
        with caplog.at_level("INFO", logger="redux.attention.backends"):
            assert torch.equal(weighted_attention(*inputs(), GROUPS, kernel=name), expected)
        (record,) = caplog.records
        assert f"backend cpu ({name} is not used: " in record.message


def test_the_chosen_kernel_serves_the_largest_part_where_it_is_faster(
    patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provide(patch, *STAND_INS["sage"])
    expected = weighted_attention(*inputs(), GROUPS)
    calls = recorded(patch)
    slow_on_many = backends.KERNELS["cpu"].run

    def cpu(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
        CLOCK[0] += 10.0 * (k.shape[2] > 20)
        return slow_on_many(q, k, v, scale)

    patch.setitem(backends.KERNELS, "cpu", replace(GENUINE, run=cpu))
    with caplog.at_level("INFO", logger="redux.attention.backends"):
        found = weighted_attention(*inputs(), GROUPS, kernel="sage")
        calls.clear()
        weighted_attention(*inputs(), GROUPS, kernel="sage")
    assert calls == [("cpu", 10), ("cpu", 5), ("sage", 45)], "measured once"
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=5e-6)
    (record,) = caplog.records
    assert "backend sage and cpu (" in record.message and "ms by cpu" in record.message


def test_ours_stays_where_it_is_as_fast(patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    provide(patch, *STAND_INS["sage"])
    calls = recorded(patch, slow=("sage",))
    with caplog.at_level("INFO", logger="redux.attention.backends"):
        weighted_attention(*inputs(), GROUPS, kernel="sage")
        calls.clear()
        weighted_attention(*inputs(), GROUPS, kernel="sage")
    assert Counter(name for name, _ in calls) == {"cpu": 3}
    assert "backend cpu (" in caplog.records[-1].message and "sage without weights" in caplog.records[-1].message


def test_a_chosen_kernel_that_fails_later_is_given_up(patch: pytest.MonkeyPatch) -> None:
    provide(patch, *STAND_INS["sage"])
    expected = weighted_attention(*inputs(), GROUPS)
    patch.setattr(choice, "_measure", lambda call, ours, wished: choice.Way(ours.kernel, largest=wished))

    def fail(*_: object) -> None:
        raise RuntimeError("no memory for scales")

    assert backends.is_usable("sage", backends.Situation(torch.device("cpu"), torch.float32, 64))
    patch.setitem(backends.KERNELS, "sage", replace(backends.KERNELS["sage"], run=fail))
    for _ in range(2):
        assert torch.equal(weighted_attention(*inputs(), GROUPS, kernel="sage"), expected)


def test_the_table_decides_between_merge_and_augmented_heads(patch: pytest.MonkeyPatch) -> None:
    rows = [
        {"device": "cpu", "kernel": "cpu", "groups": 2, "keys": 60, "ms": {"merged": 1, "augmented": 2}},
        {"device": "cpu", "kernel": "cpu", "groups": 3, "keys": 60, "ms": {"merged": 2, "augmented": 1}},
        {"device": "sm90", "kernel": "cpu", "groups": 2, "keys": 60, "ms": {"merged": 2, "augmented": 1}},
    ]
    expected = weighted_attention(*inputs(), GROUPS)
    patch.setattr(table, "rows", lambda: rows)
    equal_heads = replace(GENUINE, run=lambda q, k, v, scale: attend(q, k, v, scale))  # the CPU's own wants them
    patch.setitem(backends.KERNELS, "cpu", equal_heads)
    calls = recorded(patch)
    found = weighted_attention(*inputs(), GROUPS)
    calls.clear()
    weighted_attention(*inputs(), GROUPS)
    assert calls == [("cpu", 60)], "one call, of three segments"
    torch.testing.assert_close(found, expected, atol=5e-6, rtol=5e-6)
    calls.clear()
    weighted_attention(*inputs(), GROUPS[:1])
    assert [keys for _, keys in calls] == [10, 50]
    calls.clear()
    weighted_attention_and_shares(*inputs(), GROUPS)
    assert [keys for _, keys in calls] == [10, 5, 45], "shares need the parts"


def test_augmented_heads_that_a_kernel_cannot_do_are_merged(patch: pytest.MonkeyPatch) -> None:
    """The CPU's kernel wants heads of one size."""
    row = {"device": "cpu", "kernel": "cpu", "groups": 2, "keys": 60, "ms": {"merged": 2, "augmented": 1}}
    expected = weighted_attention(*inputs(), GROUPS)
    patch.setattr(table, "rows", lambda: [row])
    assert torch.equal(weighted_attention(*inputs(), GROUPS), expected)


def test_the_table_that_comes_with_the_library() -> None:
    for row in table.rows():
        assert row["kernel"] in backends.KERNELS and row["groups"] > 1
        assert "merged" in row["ms"] and row["ms"].keys() <= {"merged", "augmented"}


def test_entries_are_made_once_for_a_plan(patch: pytest.MonkeyPatch) -> None:
    from redux.attention import augmented

    made: list[int] = []
    make = augmented._make_entries
    patch.setattr(augmented, "_make_entries", lambda *args: made.append(1) or make(*args))
    plan = prepare_groups([(0, 20, torch.rand(60))], 60)
    for _ in range(3):
        weighted_attention(*inputs(), plan, backend="augmented")
    assert made == [1]


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """With torch's signature: sequences one behind the other, [T, H, D]; the log-sum-exp is [H, T], as its kernel's."""
    assert return_aux.lse and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    parts = []
    for batch in range(len(cu_seq_q) - 1):
        rows, columns = (slice(int(x[batch]), int(x[batch + 1])) for x in (cu_seq_q, cu_seq_k))
        assert rows.stop - rows.start == max_q and columns.stop - columns.start == max_k
        parts.append(attend(*(x.transpose(0, 1) for x in (query[rows], key[columns], value[columns])), scale))
    outs, sums = zip(*parts, strict=True)
    return torch.cat([out.transpose(0, 1) for out in outs]), torch.cat(sums, dim=1)


def test_the_public_function_for_sequences(patch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("torch.nn.attention.varlen")
    if not hasattr(module, "AuxRequest"):
        pytest.skip("this torch's varlen_attn has no return_aux")
    patch.setattr(module, "varlen_attn", varlen_attn)
    patch.setitem(backends.KERNELS, "varlen", backends.Kernel("cpu", frozenset({torch.float32}), operators.varlen))
    expected = weighted_attention(*inputs(), GROUPS)
    torch.testing.assert_close(weighted_attention(*inputs(), GROUPS, backend="varlen"), expected, atol=5e-6, rtol=5e-6)


def test_flex_attention(patch: pytest.MonkeyPatch) -> None:
    """As it is, since compiling takes long."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    if not hasattr(flex, "AuxRequest"):
        pytest.skip("this torch's flex_attention has no return_aux")
    patch.setattr(operators, "_flex", lambda: flex.flex_attention)
    patch.setitem(backends.KERNELS, "flex", backends.Kernel("cpu", frozenset({torch.float32}), operators.flex, True))
    expected = weighted_attention(*inputs(), GROUPS)
    torch.testing.assert_close(weighted_attention(*inputs(), GROUPS, backend="flex"), expected, atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize(("ms", "first"), [(1.01, "varlen"), (1.1, "flash"), (None, "flash")])
def test_a_public_function_comes_first_where_it_is_as_fast(
    monkeypatch: pytest.MonkeyPatch, ms: float | None, first: str
) -> None:
    rows = [{"device": "sm80", "kernel": "flash", "groups": 2, "keys": 60, "ms": {"merged": 1.0}}]
    if ms is not None:
        rows.append({**rows[0], "kernel": "varlen", "ms": {"merged": ms}})
    monkeypatch.setattr(table, "rows", lambda: rows)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    names = backends._preference(torch.device("cuda", 0))
    assert names[0] == first and sorted(names) == ["cudnn", "efficient", "flash", "varlen"]
