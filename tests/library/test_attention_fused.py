"""The merge in one pass: its kernel in Triton's interpreter on a CPU, and as compiled on a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from redux.attention import fused, weighted_attention

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

SCRIPT = """
import torch
from redux.attention import fused
torch.manual_seed(0)
for dtype, count, limit in [(torch.float32, 2, 1e-6), (torch.float16, 3, 1e-3), (torch.float32, 4, 1e-6)]:
    parts = [torch.randn(2, 37, 3, 16).to(dtype).transpose(1, 2) for _ in range(count)]
    parts[1] = parts[1].contiguous()  # another layout than the first one's
    logits = [torch.randn(2, 3, 37) * 4 for _ in parts]
    logits[0][0] = -1e30  # no weight
    for logit in logits:
        logit[1, 2, :5] = -1e30  # nothing has any
    before = [part.clone() for part in parts]
    share = torch.stack(logits).double().softmax(0)
    expected = sum(s.unsqueeze(-1) * p.double() for s, p in zip(share, parts))
    total = fused.fuse_(parts, logits)
    assert (parts[0].double() - expected).abs().max() < limit, dtype
    torch.testing.assert_close(total.double(), torch.stack(logits).double().logsumexp(0), atol=1e-5, rtol=1e-6)
    assert all(torch.equal(part, old) for part, old in zip(parts[1:], before[1:]))

def brute(lses, shares):
    lse, level = torch.stack(lses).double(), shares.double().expand(len(lses), *lses[0].shape)
    there = lse > -1e29
    found, bounds = torch.zeros_like(lse), level.sort(0, descending=True).values
    for j in range(len(lses)):
        width = bounds[j] - (bounds[j + 1] if j + 1 < len(lses) else 0)
        inside = (level >= bounds[j]) & there
        share = lse.where(inside, torch.tensor(-torch.inf).double()).softmax(0).nan_to_num(0)
        share[0] += ~inside.any(0)  # nothing to read counts as zeros do, and those are in the first part
        found += width * share
    return found

assert fused._probe(torch.device("cpu"), torch.float32, 16) == ""
for count in (2, 3, 4, 7, 9):
    lses = [torch.randn(2, 3, 37) * 8 for _ in range(count)]
    lses[0][0, 1, :9] = -1e30
    lses[-1][:, :, 5:20] = -1e30
    shares = torch.rand(count, 2, 1, 37).round(decimals=1)  # some are equal, some 0
    shares[-1] *= torch.arange(37) > 3
    for given in (shares, shares[:, :1, :, :1], shares[..., 4:5].expand(count, 2, 3, 1)):
        given = given.clone()
        given[0] = 1
        found = fused.mixture_logits(lses, given).double().exp()
        torch.testing.assert_close(found, brute(lses, given), atol=2e-6, rtol=2e-5)
print("equal")
"""


WHOLE = """
import torch
from redux.attention import merge, weighted_attention_and_shares
torch.manual_seed(0)
q, k, v = (torch.randn(2, 3, 70, 16) for _ in range(3))
some = torch.rand(70).where(torch.arange(70) > 20, 0.0)  # nothing for some queries
for count in (1, 3, 6):
    for size in (10, 70 // count):  # the second leaves no keys beside the shares
        groups = [(size * i, size * i + size, 0.2 * i, some if i == 1 else 0.9 - 0.1 * i) for i in range(count)]
        merge.can_fuse = lambda _: False
        stepwise = weighted_attention_and_shares(q, k, v, groups, backend="cpu")
        merge.can_fuse = lambda _: True
        for found, expected in zip(weighted_attention_and_shares(q, k, v, groups, backend="cpu"), stepwise):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
print("equal")
"""


@needs_triton
@pytest.mark.parametrize("script", [SCRIPT, WHOLE], ids=["kernels", "attention"])
def test_in_the_interpreter(script: str, root: Path) -> None:
    """In a process of its own, since Triton asks for its interpreter when it defines a kernel."""
    environ = {"TRITON_INTERPRET": "1", "PATH": "", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", script], env=environ, cwd=root, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


def test_without_triton_or_a_compiler_torch_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fused.can_fuse(torch.zeros(1, 1, 1, 64)), "not on a CPU"
    monkeypatch.setattr(fused, "_load_kernels", lambda: (_ for _ in ()).throw(FileNotFoundError("no C compiler")))
    assert fused._probe(torch.device("cpu"), torch.float32, 16) == "FileNotFoundError: no C compiler"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shares", [(1.0,) * 6, (1.0, 0.3, 0.6, 0.2, 1.0, 0.8)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_compiled_kernel_is_used_and_as_exact(
    dtype: torch.dtype, shares: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 400, 128, generator=generator).to("cuda", dtype) for _ in range(3))
    groups = [(50 * i, 50 * i + 50, 0.3 * i - 1, share) for i, share in enumerate(shares)]
    assert fused.can_fuse(torch.empty_like(q)), fused._verdicts
    exact = weighted_attention(q.double().cpu(), k.double().cpu(), v.double().cpu(), groups)
    backend = "efficient"  # which the table of ways does not know
    found = weighted_attention(q, k, v, groups, backend=backend).double().cpu()
    monkeypatch.setattr("redux.attention.merge.can_fuse", lambda _: False)
    stepwise = weighted_attention(q, k, v, groups, backend=backend).double().cpu()
    assert (found - exact).norm() <= 1.05 * (stepwise - exact).norm()
