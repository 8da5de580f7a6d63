"""Times of a merge and of augmented heads for unequal groups, from which `redux/attention/choices.json` is made.

    python benchmarks/attention_choices.py [--write redux/attention/choices.json] [--rounds 20]

FLUX.1's shapes: 24 heads of 128, references of 729 tokens with weights of their own before text and image. Rows take
turns, round after round; the medians are compared. FlexAttention, compiled, with a weight for each key, is timed beside
them and is not in the table: it is slower than one of the two wherever cuDNN's kernel is, and takes seconds to compile.

Shapes: B batch, H heads, L tokens (queries and keys), D head size.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.attention import elapsed_ms  # noqa: E402
from redux.attention import available_backends, prepare_groups  # noqa: E402
from redux.attention.backends import run_kernel  # noqa: E402
from redux.attention.choice import Call, Way  # noqa: E402
from redux.attention.groups import GroupPlan  # noqa: E402
from redux.attention.runs import KeyRuns  # noqa: E402
from redux.attention.table import TABLE, device_name  # noqa: E402

WEIGHTS = (0.6, 0.25, 1.5, 0.4, 0.8, 2.0)
REFERENCE, TEXT = 729, 256
IMAGES = {"1 MP": 4096, "2 MP": 7744}
COUNTS = (1, 2, 3, 4, 6)
Run = Callable[[], object]


def make_plan(count: int, length: int) -> GroupPlan:
    groups = [(REFERENCE * i, REFERENCE * (i + 1), math.log(WEIGHTS[i])) for i in range(count)]
    return prepare_groups(groups, length)


def make_flex(qkv: tuple[Tensor, Tensor, Tensor], plan: GroupPlan) -> Run:
    from torch.nn.attention.flex_attention import flex_attention

    bias_K = torch.zeros(plan.num_keys, device=qkv[0].device)
    for group in plan.joined:
        bias_K[group.start : group.stop] = group.log_weight
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(*qkv, score_mod=lambda score, b, h, q, k: score + bias_K[k])


def make_runs(
    qkv: tuple[Tensor, Tensor, Tensor], plan: GroupPlan, kernels: list[str], flex: bool
) -> dict[tuple[str, str], Run]:
    call = Call(qkv[0], KeyRuns(qkv[1:]), plan, None, False)
    runs: dict[tuple[str, str], Run] = {}
    for kernel in kernels:
        runs[kernel, "unweighted"] = partial(run_kernel, kernel, *qkv, None)
        runs[kernel, "merged"] = partial(call.run, Way(kernel))
        runs[kernel, "augmented"] = partial(call.run, Way(kernel, augmented=True))
    if flex:
        runs["flex", "by key"] = make_flex(qkv, plan)
    return runs


def measure(runs: dict[tuple[str, str], Run], device: torch.device, rounds: int, inner: int) -> dict[Any, float]:
    samples: dict[tuple[str, str], list[float]] = {}
    for name, run in list(runs.items()):
        try:
            run()
            samples[name] = []
        except (RuntimeError, ValueError) as error:  # a kernel that cannot do it must not cost the table
            print(f"{' '.join(name)}: {str(error).splitlines()[0]}", file=sys.stderr)
    for _ in range(rounds):
        for name in samples:
            samples[name].append(elapsed_ms(lambda run=runs[name]: [run() for _ in range(inner)], device) / inner)
    return {name: statistics.median(values) for name, values in samples.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help=f"usually {TABLE.name}; rows of other devices are kept")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="short sequences, to see that it runs")
    parser.add_argument("--flex", action="store_true", help="FlexAttention too")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    kernels = list(available_backends(device, dtype, 128)[:-1])
    name, rows = device_name(device), []
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if cuda else 'CPU'}, {dtype}, ms\n")
    print("| size | references | kernel | unweighted | merged | augmented |\n|---|---|---|---|---|---|")
    for size, image in IMAGES.items():
        for count in COUNTS:
            length = REFERENCE * count + (8 if args.small else TEXT + image)
            qkv = tuple(torch.randn(1, 2 if args.small else 24, length, 128, device=device, dtype=dtype) for _ in "qkv")
            runs = make_runs(qkv, make_plan(count, length), kernels, args.flex and count in (1, 3, 6))
            times = measure(runs, device, args.rounds, 10 if cuda else 1)
            for kernel in kernels:
                ms = {
                    way: round(times.get((kernel, way), math.inf), 3) for way in ("unweighted", "merged", "augmented")
                }
                print(f"| {size} | {count} | {kernel} | {ms['unweighted']} | {ms['merged']} | {ms['augmented']} |")
                if math.isfinite(ms["merged"]):
                    pair = {way: ms[way] for way in ("merged", "augmented") if math.isfinite(ms[way])}
                    rows.append({"device": name, "kernel": kernel, "groups": count + 1, "keys": length})
                    rows[-1]["ms"] = pair
            if ("flex", "by key") in times:
                print(f"| {size} | {count} | flex | - | {times['flex', 'by key']:.3f} | - |")
    if args.write:
        write(
            args.write,
            name,
            rows,
            f"{torch.cuda.get_device_name() if cuda else 'CPU'}, torch {torch.__version__}",
        )


def write(path: Path, device: str, rows: list[dict[str, Any]], where: str) -> None:
    old = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    lines = [json.dumps(row) for row in [row for row in old if row["device"] != device] + rows]
    source = json.dumps(f"benchmarks/attention_choices.py, last on {where}")
    path.write_text('{\n "source": ' + source + ',\n "rows": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n", "utf-8")


if __name__ == "__main__":
    main()
