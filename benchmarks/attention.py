"""Time, memory and error of one attention call with a weighted reference, against plain and densely masked attention.

    python benchmarks/attention.py [--device cuda] [--dtype bfloat16] [--length 4608] [--reference-tokens 729]

The shape is FLUX.1's: self-attention over [references | text | image] with 24 heads of size 128. Every row is timed
in turn, round after round, and the medians are compared, so that a clock that drifts touches all rows alike.
Error is the largest difference from a float32 softmax, over a few queries. The first call of a new shape is timed
by itself: some kernels make a plan then.

Shapes: B batch, H heads, L tokens (queries and keys), D head size.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redux.attention import (  # noqa: E402
    GroupPlan,
    available_backends,
    prepare_groups,
    weighted_attention,
    weighted_attention_and_shares,
)
from redux.attention.backends import run_kernel  # noqa: E402

QKV = tuple[Tensor, Tensor, Tensor]
WEIGHT = 0.6


@dataclass
class Row:
    """One way to compute attention; `log_weight_LK` is what its result is compared with."""

    name: str
    run: Callable[[QKV], Tensor]
    log_weight_LK: Tensor
    without_LK: Tensor | None = None  # with a share: what the rest of it is mixed with
    share: float | Tensor = 1.0
    samples_ms: list[float] = field(default_factory=list)
    first_ms: float = math.nan
    peak_mib: float = math.nan
    error: float = math.nan
    failure: str = ""

    @property
    def ms(self) -> float:
        return statistics.median(self.samples_ms) if self.samples_ms else math.nan


def make_inputs(args: argparse.Namespace, tokens: int) -> QKV:
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.heads, tokens, args.head_dim)
    q, k, v = (torch.randn(shape, generator=generator).to(args.device, args.dtype) for _ in range(3))
    return q, k, v


def make_rows(args: argparse.Namespace, tokens: int) -> list[Row]:
    """The ways to compare, for `tokens` tokens in all."""
    refs = args.reference_tokens
    ones = torch.zeros(tokens, tokens)
    weighted = ones.clone()
    weighted[:, :refs] = math.log(WEIGHT)
    region = torch.linspace(0.01, 2.0, tokens).log()
    regional = ones.clone()
    regional[:, :refs] = region[:, None]
    thirds = [(refs * i // 3, refs * (i + 1) // 3, math.log(w)) for i, w in enumerate((0.3, 0.6, 1.5))]
    three = ones.clone()
    for start, stop, log_weight in thirds:
        three[:, start:stop] = log_weight
    mask = weighted[None, None].to(args.device, args.dtype)
    number = prepare_groups([(0, refs, math.log(WEIGHT))], tokens)
    per_query = prepare_groups([(0, refs, region)], tokens, args.device)
    several = prepare_groups(thirds, tokens)
    without = ones.clone()
    without[:, :refs] = -math.inf
    part = torch.linspace(0.0, 1.0, tokens)
    share = prepare_groups([(0, refs, 0.0, WEIGHT)], tokens)
    share_per_query = prepare_groups([(0, refs, 0.0, part)], tokens, args.device)

    rows = [Row("no mask, torch's choice", lambda x: F.scaled_dot_product_attention(*x), ones)]
    backends = available_backends(args.device, args.dtype, args.head_dim)
    for name in backends[:-1]:
        rows.append(Row(f"no mask, {name}", partial(plain, name), ones))
    rows.append(Row("dense mask", lambda x: F.scaled_dot_product_attention(*x, attn_mask=mask), weighted))
    for name in backends:
        rows.append(Row(f"number, {name}", partial(ours, name, number), weighted))
        rows.append(Row(f"per query, {name}", partial(ours, name, per_query), regional))
        rows.append(Row(f"three groups, {name}", partial(ours, name, several), three))
        rows.append(Row(f"share, {name}", partial(ours, name, share), ones, without, WEIGHT))
        rows.append(Row(f"share per query, {name}", partial(ours, name, share_per_query), ones, without, part))
        rows.append(Row(f"number + shares, {name}", partial(ours_with_shares, name, number), weighted))
    return rows


def plain(kernel: str, inputs: QKV) -> Tensor:
    q, k, v = inputs
    return run_kernel(kernel, q, k, v, None)[0]


def ours(backend: str, plan: GroupPlan, inputs: QKV) -> Tensor:
    return weighted_attention(*inputs, plan, backend=backend)


def ours_with_shares(backend: str, plan: GroupPlan, inputs: QKV) -> Tensor:
    return weighted_attention_and_shares(*inputs, plan, backend=backend)[0]


def reference(inputs: QKV, row: Row, queries: Tensor) -> Tensor:
    """Some queries of the first batch item in float64 on the CPU."""
    q, k, v = (x[:1].cpu().double() for x in inputs)
    logits = q[:, :, queries] @ k.mT * q.shape[-1] ** -0.5
    out = (logits + row.log_weight_LK[queries].double()).softmax(-1) @ v
    if row.without_LK is None:
        return out
    share = row.share[queries, None].double() if isinstance(row.share, Tensor) else row.share
    return share * out + (1 - share) * ((logits + row.without_LK[queries].double()).softmax(-1) @ v)


def elapsed_ms(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def wall_ms(work: Callable[[], object], device: torch.device) -> float:
    """What a caller waits, planning on the CPU included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3


def prepare(row: Row, inputs: QKV, args: argparse.Namespace) -> None:
    """First call, peak memory and error of a row; a row that cannot run says why and is left out."""
    queries = torch.arange(0, inputs[0].shape[2], max(1, inputs[0].shape[2] // 8))
    try:
        row.first_ms = wall_ms(lambda: row.run(inputs), args.device)
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)
            before = torch.cuda.memory_allocated(args.device)
        out = row.run(inputs)
        if args.device.type == "cuda":
            row.peak_mib = (torch.cuda.max_memory_allocated(args.device) - before) / 2**20
        found = out[:1, :, queries].cpu().double()
        row.error = (found - reference(inputs, row, queries)).abs().max().item()
    except (RuntimeError, ValueError) as error:  # one backend that fails must not cost the table
        row.failure = f"{type(error).__name__}: {str(error).splitlines()[0]}"


def measure(rows: list[Row], inputs: QKV, args: argparse.Namespace) -> None:
    for _ in range(args.repeat):
        for row in rows:

            def work(row: Row = row) -> None:
                for _ in range(args.inner):
                    row.run(inputs)

            row.samples_ms.append(elapsed_ms(work, args.device) / args.inner)


def print_table(rows: list[Row]) -> None:
    plain = rows[0].ms
    kernels = {row.name.removeprefix("no mask, "): row.ms for row in rows if row.name.startswith("no mask, ")}
    dense = next((row.ms for row in rows if row.name == "dense mask"), math.nan)
    titles = ("ms", "/ torch's", "/ same kernel", "/ dense mask", "first, ms", "peak, MiB", "error")
    print(f"{'':32}" + "".join(f"{title:>15}" for title in titles))
    for row in rows:
        if row.failure:
            print(f"{row.name:32}  failed: {row.failure}")
            continue
        same = kernels.get(row.name.rpartition(", ")[2], math.nan)
        numbers = [f"{row.ms:.3f}", *(f"{row.ms / base:.2f}" for base in (plain, same, dense))]
        numbers += [f"{row.first_ms:.1f}", f"{row.peak_mib:.0f}", f"{row.error:.1e}"]
        print(f"{row.name:32}" + "".join(f"{'-' if number == 'nan' else number:>15}" for number in numbers))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if cuda else "cpu"))
    parser.add_argument(
        "--dtype", type=lambda name: getattr(torch, name), help="default: bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--length", type=int, help="text and image tokens; default: 4608 (1 megapixel), 832 on a CPU")
    parser.add_argument("--reference-tokens", type=int, default=729)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, help="default: 24, 4 on a CPU")
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--repeat", type=int, help="rounds; default: 50, 7 on a CPU")
    parser.add_argument("--inner", type=int, help="calls timed together; default: 10, 1 on a CPU")
    args = parser.parse_args()
    on_cpu = args.device.type == "cpu"
    defaults = {"dtype": torch.bfloat16, "length": 4608, "heads": 24, "repeat": 50, "inner": 10}
    small = {"dtype": torch.float32, "length": 832, "heads": 4, "repeat": 7, "inner": 1}
    for name, value in (small if on_cpu else defaults).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    tokens = args.length + args.reference_tokens
    name = (
        torch.cuda.get_device_name(args.device)
        if args.device.type == "cuda"
        else f"{torch.get_num_threads()} thread(s)"
    )
    print(
        f"torch {torch.__version__}, {args.device} ({name}), {args.dtype}: batch {args.batch}, {args.heads} heads, "
        f"{tokens} tokens of which {args.reference_tokens} reference, head size {args.head_dim}; "
        f"median of {args.repeat} x {args.inner}"
    )
    inputs = make_inputs(args, tokens)
    rows = make_rows(args, tokens)
    for row in rows:
        prepare(row, inputs, args)
    measure([row for row in rows if not row.failure], inputs, args)
    print_table(rows)
    # The kernels are loaded and probed now, so a first call shows what a new picture size alone costs.
    tokens += 64
    inputs = make_inputs(args, tokens)
    print(f"\nFirst call of a new shape ({tokens} tokens), ms:")
    for row in make_rows(args, tokens):
        prepare(row, inputs, args)
        print(f"{row.name:32}{row.failure or f'{row.first_ms:>15.1f}'}")


if __name__ == "__main__":
    main()
