"""Which way a weighted attention is computed where there are several: by a table of measured times, or a measurement.

Merging groups costs more with each group, augmented heads the same for any number of them: `choices.json`, which
`benchmarks/attention_choices.py` writes, has the times of both on some devices. A kernel that the user has chosen for
its speed is timed against ours once, in the very call that asks for it; one that gives no log-sum-exp is also compared
with ours there: weights may not make it less exact than it is by itself.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import backends, table
from .augmented import augmented_attention, count_entries
from .backends import TOLERANCE, KernelFailed, Situation
from .foreign import ForeignKernel, foreign_attention, forms
from .groups import GroupPlan
from .merge import merged_attention
from .runs import KeyRuns

REPEATS = 3
BUCKET = 1024  # keys; calls with about as many share a measurement
# How much larger the error of a kernel of the host may be with weights than without any, and how large that may be:
# INT8 and FP4 are a few hundredths off, and what is more than that is no attention.
MORE, LARGEST = 1.5, 0.25


@dataclass(frozen=True)
class Way:
    """One way to compute.

    Attributes:
        kernel: of the groups.
        largest: another kernel for the largest group.
        augmented: all groups in one call with augmented heads.
        why: it was chosen.
        foreign: a kernel without log-sum-exp that does it all, and in which form weights reach it.
    """

    kernel: str
    largest: str | None = None
    augmented: bool = False
    why: str = ""
    foreign: tuple[ForeignKernel, str] | None = None

    @property
    def name(self) -> str:
        if self.foreign:
            return f"{self.foreign[0].name} of the host, {self.foreign[1]}"
        kernel = f"{self.largest} and {self.kernel}" if self.largest else self.kernel
        return f"{kernel}, augmented heads" if self.augmented else kernel

    @property
    def blame(self) -> str:
        """The kernel that is at fault if it fails."""
        return self.foreign[0].name if self.foreign else self.largest or self.kernel

    def situation(self, situation: Situation, plan: GroupPlan) -> Situation:
        return replace(situation, entries=count_entries(plan)) if self.augmented else situation


@dataclass(frozen=True)
class Call:
    """What `weighted_attention` was asked for, without a mask."""

    q_BHLD: Tensor
    runs: KeyRuns
    plan: GroupPlan
    scale: float | None
    return_shares: bool

    def run(self, way: Way) -> tuple[Tensor, Tensor | None]:
        if way.foreign:
            keys_values = self.runs.concatenated()
            return foreign_attention(self.q_BHLD, *keys_values, self.plan, self.scale, *way.foreign), None
        if way.augmented:
            keys_values = self.runs.concatenated()
            return augmented_attention(self.q_BHLD, *keys_values, self.plan, self.scale, None, way.kernel), None
        return merged_attention(
            self.q_BHLD, self.runs, self.plan, way.kernel, self.scale, self.return_shares, way.largest
        )

    def run_unweighted(self, kernel: str | ForeignKernel) -> Tensor:
        keys_values = self.runs.concatenated()
        if isinstance(kernel, ForeignKernel):
            return kernel.run(self.q_BHLD, *keys_values, self.scale)
        return backends.run_kernel(kernel, self.q_BHLD, *keys_values, self.scale)[0]


_measured: dict[tuple, Way] = {}


def ways(call: Call, kernel: str, situation: Situation, wished: str | ForeignKernel | None) -> Iterator[Way]:
    """The ways to try with one of our kernels, best first; the last one is the plain merge."""
    ours = _our_way(call, kernel, situation)
    if isinstance(wished, ForeignKernel):
        way = _foreign_way(call, ours, situation, wished)
        if way.foreign:
            yield way
        else:
            ours = way
    elif wished and wished != kernel and not situation.tiny and backends.is_usable(wished, situation):
        key = (situation, kernel, wished, len(call.plan.joined), call.plan.num_keys // BUCKET)
        if key not in _measured:
            _measured[key] = _measure(call, ours, wished)
        yield _measured[key]
    elif wished and wished != kernel:
        ours = replace(ours, why=f"{wished} is not used: {backends.why_not(wished, situation)}")
    yield ours
    if ours.augmented:
        yield Way(kernel, why=ours.why)


def _foreign_way(call: Call, ours: Way, situation: Situation, wished: ForeignKernel) -> Way:
    """Which way a kernel without log-sum-exp leads to; measured once for calls that are alike."""
    if call.return_shares:
        return replace(ours, why=f"{wished.name} gives no shares")
    if situation.tiny:
        return ours
    failed = backends.failure_of(wished.name, situation)
    if failed:
        return replace(ours, why=f"{wished.name} is not used: {failed}")
    plan = call.plan
    shapes = tuple(shape for _, shape in plan.rows)
    key = (situation, ours.kernel, wished.name, len(plan.joined), len(plan.shares), shapes, plan.num_keys // BUCKET)
    if key not in _measured:
        _measured[key] = _measure_foreign(call, ours, wished)
    way = _measured[key]
    # Its function belongs to the call in which it was measured.
    return replace(way, foreign=(wished, way.foreign[1])) if way.foreign else way


def _our_way(call: Call, kernel: str, situation: Situation) -> Way:
    plain = len(call.runs.runs) == 1 and not call.return_shares and not call.plan.shares and not situation.tiny
    times = table.nearest(situation.device, kernel, len(call.plan.joined), call.plan.num_keys)
    if not plain or not times or times.get("augmented", math.inf) >= times["merged"]:
        return Way(kernel)
    if not backends.is_usable(kernel, replace(situation, entries=count_entries(call.plan))):
        return Way(kernel)
    return Way(kernel, augmented=True)


def _measure(call: Call, ours: Way, wished: str) -> Way:
    """Ours where it is as fast as the wished kernel without any weight, else whichever is faster with weights."""
    mixed = Way(ours.kernel, largest=wished)
    try:
        alone_ms = _time(lambda: call.run_unweighted(wished), call.q_BHLD.device)
        mixed_ms = _time(lambda: call.run(mixed), call.q_BHLD.device)
    except backends.KernelFailed as failure:
        return replace(ours, why=f"{wished} is not used: {failure}")
    ours_ms = _time(lambda: call.run(ours), call.q_BHLD.device)
    why = f"{ours_ms:.2f} ms by {ours.name}, {mixed_ms:.2f} with {wished}, {wished} without weights {alone_ms:.2f}"
    best = ours if ours_ms <= max(alone_ms, mixed_ms) else mixed
    return replace(best, why=why)


def _measure_foreign(call: Call, ours: Way, wished: ForeignKernel) -> Way:
    """The fastest form in which the kernel is as exact as without weights, or ours where that is as fast."""
    device, dtype = call.q_BHLD.device, call.q_BHLD.dtype
    try:
        usual = _relative(call.run_unweighted(wished), call.run_unweighted(ours.kernel))
        if not usual <= LARGEST:
            return replace(ours, why=f"{wished.name} is not used: without weights it is {usual:.2g} off")
        alone_ms = _time(lambda: call.run_unweighted(wished), device)
        expected_BHLD = call.run(ours)[0]
    except KernelFailed as failure:
        return replace(ours, why=f"{wished.name} is not used: {failure}")
    ours_ms = _time(lambda: call.run(ours), device)
    found, refused = [], []
    for form in forms(wished, call.plan, call.q_BHLD.shape[2]):
        way = replace(ours, foreign=(wished, form))
        try:
            error = _relative(call.run(way)[0], expected_BHLD)
            if error <= MORE * usual + TOLERANCE[dtype] / 10:
                found.append((_time(lambda way=way: call.run(way), device), error, way))  # type: ignore[misc]
            else:
                refused.append(f"{form}: {error:.2g} off, without weights {usual:.2g}")
        except KernelFailed as failure:
            refused.append(f"{form}: {failure}")
    if not found:
        return replace(ours, why=f"{wished.name} is not used: {'; '.join(refused)}")
    best_ms, error, best = min(found, key=lambda one: one[0])
    times = f"{ours_ms:.2f} ms by {ours.name}, {best_ms:.2f} by {best.name}, without weights {alone_ms:.2f}"
    return replace(ours if ours_ms <= best_ms else best, why=f"{times}; {error:.2g} off, without weights {usual:.2g}")


def _relative(found: Tensor, expected: Tensor) -> float:
    expected = expected.float()
    return float((found.float() - expected).norm() / expected.norm().clamp(min=1e-12))


def _time(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, after another one that may make plans."""
    run()
    samples = []
    for _ in range(REPEATS):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        samples.append((time.perf_counter() - start) * 1e3)
    return statistics.median(samples)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
