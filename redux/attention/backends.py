"""Attention kernels that also give the log-sum-exp of the logits, each tried against a reference before its first use.

The operators are private in torch, so nothing about them is taken for granted: a kernel that is missing, raises, or
gives another output or another log-sum-exp than the reference on this device, dtype and head size is not used.

Shapes: B batch, H heads, L queries, K keys, D head size.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import operators, packages, table

logger = logging.getLogger(__name__)

AUGMENTED = "augmented"
FORMER_NAME = "bias"  # which older versions called it
ENVIRONMENT = "REDUX_ATTENTION"

HALF = frozenset({torch.float16, torch.bfloat16})
# Largest error of the output, whose size is about 1, and of the log-sum-exp. fp32 leaves room for TF32.
TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 1e-2, torch.float32: 5e-3, torch.float64: 1e-6}


class KernelFailed(RuntimeError):
    """A kernel could not run what it was given."""


@dataclass(frozen=True)
class Kernel:
    """An operator and where it is worth a try; run(q, k, v, scale) gives the output and the raw log-sum-exp.

    `by_name`: of another package, or slow to begin; used only where it is asked for. `error`: times TOLERANCE, for one
    that quantises.
    """

    device_type: str
    dtypes: frozenset[torch.dtype]
    run: Callable[[Tensor, Tensor, Tensor, float | None], tuple[Tensor, Tensor]]
    by_name: bool = False
    error: float = 1.0


@dataclass(frozen=True)
class Situation:
    """What decides whether a kernel can be used. `tiny`: a single query or a single key, which some cannot do;
    `entries`: by how many entries the heads of queries and keys are larger than those of values."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    tiny: bool = False
    entries: int = 0

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device} with head size {self.head_dim}"


KERNELS: dict[str, Kernel] = {
    "cudnn": Kernel("cuda", HALF, operators.cudnn),
    "flash": Kernel("cuda", HALF, operators.flash),
    "varlen": Kernel("cuda", HALF, operators.varlen),
    "efficient": Kernel("cuda", HALF | {torch.float32}, operators.efficient),
    "cpu": Kernel("cpu", HALF | {torch.float32, torch.float64}, operators.cpu),
    "flex": Kernel("cuda", HALF | {torch.float32}, operators.flex, by_name=True),
    "sage": Kernel("cuda", HALF, packages.sage, by_name=True, error=3.0),
    "flash_attn": Kernel("cuda", HALF, packages.flash_attn, by_name=True),
    "xformers": Kernel("cuda", HALF | {torch.float32}, packages.xformers, by_name=True),
}

_verdicts: dict[tuple[str, Situation], str] = {}  # why a kernel is not used; empty = it is fine
_announced: set[tuple[Situation, str]] = set()


def available_backends(
    device: torch.device | str, dtype: torch.dtype, head_dim: int, *, tiny: bool = False
) -> tuple[str, ...]:
    """The backends that can be used, best first; "augmented" can always be and comes last.

    Args:
        tiny: there is a single query, or a group with a single key.
    """
    situation = Situation(_with_index(torch.device(device)), dtype, head_dim, tiny)
    return (*usable_kernels(situation), AUGMENTED)


def requested_backend(backend: str | None) -> str | None:
    """The backend that the caller or the environment forces.

    Raises:
        ValueError: there is no backend of this name.
    """
    name = backend or os.environ.get(ENVIRONMENT) or None
    if name == FORMER_NAME:
        return AUGMENTED
    if name is not None and name != AUGMENTED and name not in KERNELS:
        raise ValueError(f"There is no attention backend {name!r}; use one of {', '.join((*KERNELS, AUGMENTED))}.")
    return name


def usable_kernels(situation: Situation) -> Iterator[str]:
    """Names of the kernels that work, best first; each is tried only when the iteration comes to it."""
    for name in _preference(situation.device):
        if not _verdict(name, situation):
            yield name


def is_usable(name: str, situation: Situation) -> bool:
    """Whether this kernel works here."""
    return name in KERNELS and KERNELS[name].device_type == situation.device.type and not _verdict(name, situation)


def why_not(name: str, situation: Situation) -> str:
    """What is wrong with a kernel that is not usable."""
    if name not in KERNELS or KERNELS[name].device_type != situation.device.type:
        return f"it does not run on {situation.device.type}"
    return _verdict(name, situation)


def failure_of(name: str, situation: Situation) -> str:
    """Why a kernel is used no more in this situation, or nothing."""
    return _verdicts.get((name, situation), "")


def reject(name: str, situation: Situation, failure: Exception) -> None:
    """Use the kernel no more in this situation."""
    _verdicts[name, situation] = str(failure)
    logger.warning("Attention backend %s is not used any more for %s: %s", name, situation, failure)


def announce(name: str, situation: Situation, why: str = "") -> None:
    """Say once which backend serves a situation; again where there is another reason."""
    if (situation, why) not in _announced:
        _announced.add((situation, why))
        logger.info("Attention over groups of keys, %s: backend %s%s", situation, name, f" ({why})" if why else "")


def run_kernel(name: str, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp.

    Args:
        q: [B, H, L, D]; k, v: [B, H, K, D] with K > 0, views allowed.
        scale: factor of the logits; None = D ** -0.5.

    Returns:
        The output [B, H, L, D], a fresh tensor, and the natural log-sum-exp of the scaled logits [B, H, L].

    Raises:
        KernelFailed: the kernel raised.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    try:
        out, lse = KERNELS[name].run(q, k, v, scale)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError, TypeError, ValueError, AssertionError, ImportError) as error:
        # Private operators may be absent, change their arguments, or refuse a shape only when they build its plan;
        # the next backend can do the same work, so this is no reason to stop.
        raise KernelFailed(
            f"the {name} kernel failed ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    if lse.ndim == 4:  # cuDNN keeps the reduced axis
        lse = lse.squeeze(-1)
    if lse.shape[-1] > q.shape[2]:  # the memory-efficient kernel pads the queries to a multiple of 32
        lse = lse[..., : q.shape[2]]
    return out, lse


def _preference(device: torch.device) -> tuple[str, ...]:
    names = [name for name, kernel in KERNELS.items() if kernel.device_type == device.type and not kernel.by_name]
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 9:
        # Before Hopper cuDNN's attention is no faster than flash; torch ranks them so as well.
        names.sort(key=("flash", "varlen", "cudnn", "efficient").index)
    if "varlen" in names and table.is_as_fast(device, "varlen", "flash"):  # the same kernel by a public function
        names.insert(names.index("flash"), names.pop(names.index("varlen")))
    return tuple(names)


def _verdict(name: str, situation: Situation) -> str:
    key = (name, situation)
    if key not in _verdicts:
        if situation.dtype in KERNELS[name].dtypes:
            _verdicts[key] = _probe(name, situation)
            logger.debug("Attention backend %s, %s: %s", name, situation, _verdicts[key] or "works")
        else:
            _verdicts[key] = f"it does not do {situation.dtype}"
    return _verdicts[key]


@torch.no_grad()
def _probe(name: str, situation: Situation) -> str:
    """Compare a kernel with the reference; what is wrong with it, or nothing."""
    tolerance = TOLERANCE[situation.dtype] * KERNELS[name].error
    for (q, k, v), scale in _samples(situation):
        try:
            out, lse = run_kernel(name, q, k, v, scale)
        except KernelFailed as failure:
            return str(failure)
        q, k, v = (x.cpu().double() for x in (q, k, v))
        logits = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
        for what, found, expected in (
            ("log-sum-exp", lse, logits.logsumexp(-1)),
            ("output", out, logits.softmax(-1) @ v),
        ):
            if found.shape != expected.shape:
                return f"its {what} has shape {tuple(found.shape)} instead of {tuple(expected.shape)}"
            error = (found.cpu().double() - expected).abs().max().item()
            if not error <= tolerance:  # also true of NaN
                return f"its {what} differs from the reference by {error:.2g}"
    return ""


def _samples(situation: Situation) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], float | None]]:
    """A plain case, and one as models make them: views of a packed tensor, odd lengths, a slice of the keys."""
    generator = torch.Generator().manual_seed(0)

    def packed(length: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(2, length, 3, 3, situation.head_dim + situation.entries, generator=generator)
        q, k, v = x.to(situation.device, situation.dtype).permute(2, 0, 3, 1, 4)
        return q, k, v[..., : situation.head_dim]

    if situation.tiny:
        q, k, v = packed(33)
        yield (q, k[:, :, 5:6], v[:, :, 5:6]), None
        yield (q[:, :, :1], k, v), None
    else:
        q, k, v = packed(64)
        yield (q.contiguous(), k.contiguous(), v.contiguous()), None
        q, k, v = packed(77)
        yield (q, k[:, :, 7:72], v[:, :, 7:72]), 0.2


def _with_index(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
