"""Several attention outputs merged in one pass by small Triton kernels, where Triton is and gives the right result.

Step by step in torch a merge reads and writes the output once for each group, and launches five kernels for it, or a
dozen where shares are mixed. Here each part is read once, and weights and sums stay in fp32.

Shapes: B batch, H heads, L queries, D head size.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from .amounts import MASKED

logger = logging.getLogger(__name__)

PARTS = 4  # at a time, so that no more outputs exist
ROWS = 16  # of one program
PAIRS = 2048  # of parts that one program compares
_verdicts: dict[tuple[torch.device, torch.dtype, int], str] = {}
_kernels: Any = None


def can_fuse(out_BHLD: Tensor) -> bool:
    """Whether outputs like this one can be merged here; tried once for each device, dtype and head size."""
    head_dim = out_BHLD.shape[3]
    if not out_BHLD.is_cuda or head_dim & (head_dim - 1):
        return False
    key = (out_BHLD.device, out_BHLD.dtype, head_dim)
    if key not in _verdicts:
        _verdicts[key] = _probe(*key)
        if _verdicts[key]:
            logger.info("Groups are merged without Triton: %s", _verdicts[key])
    return not _verdicts[key]


def fuse_(parts: list[Tensor], lses: list[Tensor]) -> Tensor:
    """Merge two to PARTS parts into the first one, in place.

    Args:
        parts: outputs [B, H, L, D] of attention over groups of keys, in one dtype.
        lses: the log-sum-exp [B, H, L] of each, with its weight, in fp32.

    Returns:
        The log-sum-exp over all of them [B, H, L].
    """
    first = parts[0]
    batch, heads, length, head_dim = first.shape
    parts = [first, *(part if part.stride() == first.stride() else _like(part, first) for part in parts[1:])]
    lses = [lse_BHL.contiguous() for lse_BHL in lses]
    total_BHL = torch.empty_like(lses[0])
    rows = batch * heads * length
    padded = (*parts, *[first] * (PARTS - len(parts)), *lses, *[lses[0]] * (PARTS - len(lses)))
    with torch.cuda.device(first.device) if first.is_cuda else torch.no_grad():
        _load_kernels().merge_rows[(-(-rows // ROWS),)](
            *padded, total_BHL, rows, heads, length, *first.stride()[:3], COUNT=len(parts), D=head_dim, ROWS=ROWS
        )
    return total_BHL


def mixture_logits(lses: list[Tensor], shares_nbhl: Tensor) -> Tensor:
    """The logarithms of what parts count in the mixture by shares, for `fuse_` [n, B, H, L].

    Args:
        lses: the log-sum-exp [B, H, L] of each part, with its weight, in fp32; MASKED stands for no keys at all.
        shares_nbhl: their shares, fp32, those of the first being 1.
    """
    lse_nBHL = torch.stack(lses)
    count, batch, heads, length = lse_nBHL.shape
    rows, out = batch * heads * length, torch.empty_like(lse_nBHL)
    strides = shares_nbhl.expand_as(lse_nBHL).stride()
    most = max(2, 1 << (count - 1).bit_length())
    at_once = max(1, PAIRS // most**2)
    with torch.cuda.device(out.device) if out.is_cuda else torch.no_grad():
        _load_kernels().mixture_logits[(-(-rows // at_once),)](
            lse_nBHL, shares_nbhl, out, count, rows, heads, length, *strides, MASKED=MASKED, MOST=most, ROWS=at_once
        )
    return out


def _like(part: Tensor, first: Tensor) -> Tensor:
    """The part with the strides of the first one."""
    return torch.empty_strided(first.shape, first.stride(), dtype=part.dtype, device=part.device).copy_(part)


@torch.no_grad()
def _probe(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """What is wrong with the kernels here, or nothing."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 33, 3, head_dim, generator=generator).to(device, dtype).transpose(1, 2) for _ in "1234"]
    lses = [torch.randn(2, 3, 33, generator=generator).to(device) * 3 for _ in parts]
    lse_PBHL = torch.stack(lses).double()
    expected = sum(share.unsqueeze(-1) * part.double() for share, part in zip(lse_PBHL.softmax(0), parts, strict=True))
    levels = torch.tensor([1.0, 0.8, 0.5, 0.2], device=device).reshape(4, 1, 1, 1)
    widths = torch.tensor([0.2, 0.3, 0.3, 0.2], device=device).reshape(4, 1, 1, 1) / lse_PBHL.exp().cumsum(0)
    mixed = lse_PBHL + widths.flip(0).cumsum(0).flip(0).log()
    try:
        logits_PBHL = mixture_logits(lses, levels)
        total_BHL = fuse_(parts, lses)
    except Exception as error:  # a compiler that is missing shows itself in many ways; torch does the same work
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    pairs = ((parts[0], expected), (total_BHL, lse_PBHL.logsumexp(0)), (logits_PBHL, mixed))
    off = max((found.double() - right).abs().max().item() for found, right in pairs)
    limit = {torch.bfloat16: 2e-2, torch.float16: 3e-3}.get(dtype, 1e-5)
    return "" if off <= limit else f"the merge differs from the reference by {off:.2g}"


def _load_kernels() -> Any:
    """Defined at the first use: Triton is not everywhere, and costs time to import."""
    global _kernels
    if _kernels is None:
        from . import _fused_kernel

        _kernels = _fused_kernel
    return _kernels
