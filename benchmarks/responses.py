"""What each response costs: one attention call of a 1 MP picture, on full steps and on those that keep references.

    python benchmarks/responses.py [--device cuda] [--heads 24]

References of unequal strengths, with and without a region each (a stripe of the picture; one: its left half). Timed is
the wall, calls back to back, so that on a GPU whichever of both processors is slower counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from redux.attention import weighted_attention  # noqa: E402
from redux.reference import RESPONSES, Reference  # noqa: E402
from redux.step_weights import Layout, StepWeights  # noqa: E402
from redux.tokens import Part  # noqa: E402

STRENGTHS = {"weight": (0.6, 0.25, 1.5, 0.4, 0.8, 2.0), "even": (0.6, 0.25, 0.5, 0.4, 0.8, 0.9)}
LAYOUT = Layout(256, 128, 128)
CALLS = 4


def weigh(count: int, response: str, regions: bool, kept: bool, device: str) -> StepWeights:
    references = []
    for index, strength in enumerate(STRENGTHS[response][:count]):
        region = None
        if regions:
            region = torch.zeros(1, 64, 64)
            region[..., 64 * index // max(count, 2) : 64 * (index + 1) // max(count, 2)] = 1
        references.append(Reference((Part(((27, 27),), 729),), strength, region, response=response))
    return StepWeights(tuple((one, one.strength) for one in references), LAYOUT, device, kept=kept)


def milliseconds(step: StepWeights, heads: int, device: str, dtype: torch.dtype, repeat: int) -> float:
    """The median of some rounds of CALLS calls."""
    plan = step.plan("double", 0, heads=heads)
    queries = step.length - step.references + step.asking
    q, k, v = (torch.randn(1, heads, n, 128, device=device, dtype=dtype) for n in (queries, step.length, step.length))
    kept = None if step.asking else (k[:, :, : step.references], v[:, :, : step.references])
    if kept:
        k, v = k[:, :, step.references :], v[:, :, step.references :]
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(repeat + 1):  # the first one may compile and make plans
        wait()
        start = time.perf_counter()
        for _ in range(CALLS):
            weighted_attention(q, k, v, plan, kept=kept)
        wait()
        times.append((time.perf_counter() - start) / CALLS * 1e3)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {dtype}, {args.heads} heads\n")
    print("| references | regions | step |", *(f"{response}, ms |" for response in RESPONSES))
    print("|---" * (3 + len(RESPONSES)) + "|")
    for count in (1, 3, 6):
        for regions in (False, True):
            for kept in (False, True):
                steps = (weigh(count, response, regions, kept, args.device) for response in RESPONSES)
                found = [milliseconds(step, args.heads, args.device, dtype, args.repeat) for step in steps]
                row = f"| {count} | {'yes' if regions else 'no'} | {'kept' if kept else 'full'} |"
                print(row, *(f"{ms:.2f} |" for ms in found), flush=True)


if __name__ == "__main__":
    main()
