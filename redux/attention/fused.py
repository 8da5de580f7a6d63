"""Several attention outputs merged in one pass by a small Triton kernel, where Triton is and gives the right result.

Step by step in torch a merge reads and writes the output once for each group, and launches five kernels for it. Here
each part is read once, and weights and sums stay in fp32.

Shapes: B batch, H heads, L queries, D head size.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

PARTS = 4  # at a time, so that no more outputs exist
ROWS = 16  # of one program
_verdicts: dict[tuple[torch.device, torch.dtype, int], str] = {}
_kernel: Any = None


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
        _load_kernel()[(-(-rows // ROWS),)](
            *padded, total_BHL, rows, heads, length, *first.stride()[:3], COUNT=len(parts), D=head_dim, ROWS=ROWS
        )
    return total_BHL


def _like(part: Tensor, first: Tensor) -> Tensor:
    """The part with the strides of the first one."""
    return torch.empty_strided(first.shape, first.stride(), dtype=part.dtype, device=part.device).copy_(part)


@torch.no_grad()
def _probe(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """What is wrong with the kernel here, or nothing."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 33, 3, head_dim, generator=generator).to(device, dtype).transpose(1, 2) for _ in "1234"]
    lses = [torch.randn(2, 3, 33, generator=generator).to(device) * 3 for _ in parts]
    share_PBHL = torch.stack(lses).double().softmax(0)
    expected = sum(share.unsqueeze(-1) * part.double() for share, part in zip(share_PBHL, parts, strict=True))
    wanted = torch.stack(lses).double().logsumexp(0)
    try:
        total_BHL = fuse_(parts, lses)
    except Exception as error:  # a compiler that is missing shows itself in many ways; torch does the same work
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    off = max((parts[0].double() - expected).abs().max().item(), (total_BHL.double() - wanted).abs().max().item())
    limit = {torch.bfloat16: 2e-2, torch.float16: 3e-3}.get(dtype, 1e-5)
    return "" if off <= limit else f"the merge differs from the reference by {off:.2g}"


def _load_kernel() -> Any:
    """Defined at the first use: Triton is not everywhere, and costs time to import."""
    global _kernel
    if _kernel is None:
        from ._fused_kernel import merge_rows

        _kernel = merge_rows
    return _kernel
