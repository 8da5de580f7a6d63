"""Kernels without a log-sum-exp under weights: comfy-kitchen's INT8 and SageAttention 3, where they are installed.

    python benchmarks/foreign.py [--json FILE] [--rounds 10] [--small]

FLUX.1's shapes at 1 MP: 24 heads of 128, references of 729 tokens before text and image. For 1, 3 and 6 references as
weights, evenly (`even`), and evenly in a region each: ms without weights, by our own way, and in each form that weights
can reach the kernel, with the relative error against our own way (of "without weights" against the same kernel of
ours). Torch's choice of a kernel stands beside them everywhere. Rows take turns; medians.

Shapes: B batch, H heads, L tokens (queries and keys), D head size.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.attention import elapsed_ms  # noqa: E402
from redux.attention import ForeignKernel, available_backends, prepare_groups, weighted_attention  # noqa: E402
from redux.attention.backends import KernelFailed, run_kernel  # noqa: E402
from redux.attention.choice import _relative  # noqa: E402
from redux.attention.foreign import foreign_attention, forms  # noqa: E402

STRENGTHS = (0.6, 0.25, 0.9, 0.4, 0.8, 0.1)
REFERENCE, TEXT, IMAGE = 729, 256, 4096
KINDS = ("weight", "even", "even, region")
Run = Callable[[], object]


def torchs_choice(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.to(q.dtype)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def find_kernels() -> Iterator[ForeignKernel]:
    yield ForeignKernel("torch's choice", torchs_choice, takes_bias=True)
    try:
        kitchen = importlib.import_module("comfy_kitchen")
        if kitchen.int8_attention_is_available():
            int8 = kitchen.int8_attention
            yield ForeignKernel("INT8", lambda q, k, v, scale, bias: int8(q, k, v, scale=scale, attn_mask=bias), True)
    except (ImportError, AttributeError) as error:
        print(f"comfy-kitchen's INT8 is left out: {error}", file=sys.stderr)
    try:
        sage = importlib.import_module("sageattn3").sageattn3_blackwell
        yield ForeignKernel("SageAttention 3", lambda q, k, v, scale, bias: sage(q, k, v, is_causal=False))
    except (ImportError, AttributeError) as error:
        print(f"SageAttention 3 is left out: {error}", file=sys.stderr)


def make_groups(count: int, length: int, kind: str) -> list[tuple[Any, ...]]:
    """The references' own queries, which come first, know no weight."""
    own = REFERENCE * count
    groups: list[tuple[Any, ...]] = []
    for index in range(count):
        weight_L = torch.ones(length)
        weight_L[own:] = STRENGTHS[index]
        if kind.endswith("region"):
            image_L = weight_L[own + TEXT :]
            image_L *= (torch.arange(len(image_L)) * count // len(image_L) == index).float()
        keys = REFERENCE * index, REFERENCE * (index + 1)
        groups.append((*keys, weight_L.log()) if kind == "weight" else (*keys, 0.0, weight_L))
    return groups


def measure(kernel: ForeignKernel, qkv: tuple[Tensor, ...], groups: list, rounds: int) -> list[dict[str, Any]]:
    q, k, v = qkv
    plan = prepare_groups(groups, q.shape[2], q.device)
    ours = available_backends(q.device, q.dtype, q.shape[3])[0]
    weighted = partial(weighted_attention, q, k, v, plan)
    runs: dict[str, Run] = {
        "without weights": partial(kernel.run, q, k, v, None),
        f"ours, {ours}, without weights": partial(run_kernel, ours, q, k, v, None),
        f"ours, {ours}": weighted,
    }
    for form in forms(kernel, plan, q.shape[2]):
        runs[form] = partial(foreign_attention, q, k, v, plan, None, kernel, form)
    rows, samples = {}, {}
    for name, run in runs.items():
        try:
            found = run()
        except KernelFailed as failure:
            rows[name] = {"name": name, "failure": str(failure)}
            continue
        bare = name.endswith("without weights")
        expected = run_kernel(ours, q, k, v, None)[0] if bare else weighted()
        found = found[0] if isinstance(found, tuple) else found
        rows[name] = {"name": name, "error": _relative(found, expected)}  # type: ignore[arg-type]
        samples[name] = []
    for _ in range(rounds):
        for name, times in samples.items():
            times.append(elapsed_ms(lambda run=runs[name]: [run() for _ in range(5)], q.device) / 5)
    for name, times in samples.items():
        rows[name]["ms"] = statistics.median(times)
    return list(rows.values())


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="short sequences, to see that it runs")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    print(f"{torch.cuda.get_device_name() if cuda else 'CPU'}, torch {torch.__version__}, {dtype}\n")
    titles = "kernel", "references", "kind", "form", "ms", "to without weights", "relative error"
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    figures = []
    for kernel in find_kernels():
        for count in (1,) if args.small else (1, 3, 6):
            length = REFERENCE * count + (16 if args.small else TEXT + IMAGE)
            qkv = tuple(torch.randn(1, 2 if args.small else 24, length, 128, device=device, dtype=dtype) for _ in "qkv")
            for kind in KINDS:
                rows = measure(kernel, qkv, make_groups(count, length, kind), args.rounds)
                figures.append({"kernel": kernel.name, "references": count, "kind": kind, "rows": rows})
                for row in rows:
                    cells = [row.get("failure", "-"), "-", "-"]
                    if "ms" in row:
                        cells = [f"{row['ms']:.3f}", f"{row['ms'] / rows[0]['ms']:.2f}", f"{row['error']:.2g}"]
                    print(f"| {kernel.name} | {count} | {kind} | {row['name']} | {' | '.join(cells)} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
