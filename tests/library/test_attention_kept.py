"""Keys and values that stand before the others without having been concatenated: the same attention."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redux.attention import available_backends, prepare_groups, weighted_attention, weighted_attention_and_shares

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BACKENDS = [(device, name) for device in DEVICES for name in available_backends(device, torch.float32, 64)]


def tensors(kept: int = 30, own: int = 40, queries: int = 40, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = (queries, kept, kept, own, own)
    return [torch.randn(2, 3, length, 64, generator=generator).to(device) for length in lengths]


def both(groups: list, backend: str, device: str = "cpu", **options: object) -> tuple:
    q, kept_k, kept_v, k, v = tensors(device=device)
    found = weighted_attention_and_shares(q, k, v, groups, kept=(kept_k, kept_v), backend=backend, **options)
    k, v = torch.cat((kept_k, k), dim=2), torch.cat((kept_v, v), dim=2)
    return found, weighted_attention_and_shares(q, k, v, groups, backend=backend, **options)


@pytest.mark.parametrize(("device", "backend"), BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    bounds=st.lists(st.integers(0, 70), min_size=2, max_size=6, unique=True).filter(lambda x: len(x) % 2 == 0),
    weight=st.floats(0.0, 3.0),
    share=st.floats(0.0, 1.0),
)
def test_it_is_the_attention_over_all_of_them(
    device: str, backend: str, bounds: list[int], weight: float, share: float
) -> None:
    bounds = sorted(bounds)
    rows = torch.rand(40, device=device)  # a region
    kinds = [(math.log(weight) if weight else -math.inf, share), (rows.log(), 1.0), (0.0, rows)]
    groups = [(*pair, *kind) for pair, kind in zip(zip(bounds[::2], bounds[1::2], strict=True), kinds, strict=False)]
    for found, wanted in zip(*both(groups, backend, device), strict=True):
        torch.testing.assert_close(found, wanted, atol=5e-3 if device == "cuda" else 1e-5, rtol=0)


@pytest.mark.parametrize("backend", available_backends("cpu", torch.float32, 64))
def test_without_groups_it_is_plain_attention(backend: str) -> None:
    (out, _), _ = both([], backend)
    q, kept_k, kept_v, k, v = tensors()
    k, v = torch.cat((kept_k, k), dim=2), torch.cat((kept_v, v), dim=2)
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=0)


def test_a_mask_counts_all_keys() -> None:
    mask = torch.rand(40, 70) > 0.3
    (out, shares), (wanted, wanted_shares) = both([(0, 30, math.log(0.2))], "cpu", mask=mask)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(shares, wanted_shares, atol=1e-5, rtol=0)


def test_nothing_is_copied_for_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, kept_k, kept_v, k, v = tensors()
    monkeypatch.setattr(torch, "cat", None)  # a concatenation would raise
    plan = prepare_groups([(0, 30, math.log(0.5))], 70)
    assert weighted_attention(q, k, v, plan, kept=(kept_k, kept_v), backend="cpu").shape == q.shape


def test_runs_that_do_not_fit_are_one_sentence() -> None:
    q, kept_k, kept_v, k, v = tensors()
    with pytest.raises(ValueError, match="prepared for 40 keys, but there are 70"):
        weighted_attention(q, k, v, prepare_groups([], 40), kept=(kept_k, kept_v))
    with pytest.raises(ValueError, match="do not fit"):
        weighted_attention(q, k, v, [], kept=(kept_k[:1], kept_v[:1]))
    with pytest.raises(ValueError, match="have dtypes"):
        weighted_attention(q, k, v, [], kept=(kept_k.half(), kept_v.half()))
