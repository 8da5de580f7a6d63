"""What regions save: one attention call of a 1 MP picture in which all queries ask each reference, or its readers only.

    python benchmarks/regions.py [--device cuda] [--heads 24]

References of unequal strengths, each in a stripe of the picture (one: in its left half), as weights and evenly, on
full steps and on those whose references are kept. Both ways take turns; the median is compared. On a CPU what counts is
the time of its cores that this process takes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from redux.attention import GroupPlan, groups, weighted_attention  # noqa: E402
from redux.reference import RESPONSES, Reference  # noqa: E402
from redux.step_weights import Layout, StepWeights  # noqa: E402
from redux.tokens import Part  # noqa: E402

STRENGTHS = (0.6, 0.25, 1.5, 0.4, 0.8, 2.0)
LAYOUT = Layout(256, 128, 128)
NEVER = 1 << 60


def step(count: int, response: str, kept: bool, device: str) -> StepWeights:
    references = []
    for index, strength in enumerate(STRENGTHS[:count]):
        region = torch.zeros(1, 64, 64)
        region[..., 64 * index // max(count, 2) : 64 * (index + 1) // max(count, 2)] = 1
        references.append(Reference((Part(((27, 27),), 729),), strength, region, response=response))
    return StepWeights(tuple((one, one.strength) for one in references), LAYOUT, device, kept=kept)


def plan_of(step: StepWeights, heads: int, worth: int) -> GroupPlan:
    with mock.patch.object(groups, "WORTH", worth):
        return StepWeights(step.active, step.layout, step.device, kept=not step.asking).plan("double", 0, heads=heads)


def milliseconds(run: Callable[[], object], device: str) -> float:
    def wait() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    start = wait()
    run()
    return (wait() - start) * 1e3


def compare(step: StepWeights, heads: int, device: str, dtype: torch.dtype, repeat: int) -> tuple[float, float]:
    """Medians of all queries and of the readers only."""
    own = step.length - step.references
    q, k, v = (
        torch.randn(1, heads, n, 128, device=device, dtype=dtype) for n in (own + step.asking, *[step.length] * 2)
    )
    kept = None if step.asking else (k[:, :, : step.references], v[:, :, : step.references])
    if kept:
        k, v = k[:, :, step.references :], v[:, :, step.references :]
    plans = [plan_of(step, heads, worth) for worth in (NEVER, groups.WORTH)]
    times: list[list[float]] = [[], []]
    for _ in range(repeat + 1):  # the first one may make plans
        for plan, found in zip(plans, times, strict=True):
            found.append(milliseconds(lambda plan=plan: weighted_attention(q, k, v, plan, kept=kept), device))
    everyone, readers = (statistics.median(found[1:]) for found in times)
    return everyone, readers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {dtype}, {args.heads} heads\n")
    print("| references | response | step | all, ms | readers only, ms | ratio |\n|---|---|---|---|---|---|")
    for count in (1, 2, 3, 6):
        for response in RESPONSES:
            for kept in (False, True):
                found = compare(step(count, response, kept, args.device), args.heads, args.device, dtype, args.repeat)
                row = f"| {count} | {response} | {'kept' if kept else 'full'} |"
                print(f"{row} {found[0]:.2f} | {found[1]:.2f} | {found[1] / found[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
