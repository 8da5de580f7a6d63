"""Whole pictures of FLUX.1-dev at full size with kept references, against ComfyUI's own and exact ones.

    python benchmarks/kept.py --comfyui PATH [--json FILE] [--plot FILE] [--small]

Random bf16 weights, Euler, 1 MP, no classifier-free guidance; references with unequal strengths and a region each. Each
case runs once after a warm-up of four steps, a full and a kept one among them; `of core` is against ComfyUI's
unweighted picture with as many references and steps in the same run. Memory is the peak beyond what was there before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from benchmarks.flux import Conditionings, load_flux, load_pack  # noqa: E402
from benchmarks.plot import draw_kept  # noqa: E402
from benchmarks.sampling import backend  # noqa: E402

COUNTS = (1, 3, 6, 8)
STRENGTHS = (0.6, 0.25, 1.5, 0.4, 0.8, 2.0, 0.5, 0.7)
SIDE = 1024
WORST = "no tolerance"  # so that automatic is full in every step, the worst that it can cost


Case = tuple[int, int, str, Callable[[], list], str]


def cases(make: Conditionings, keep: Callable[[list, str], list]) -> list[Case]:
    """Number of references, steps, name, conditioning, and the backend that is forced, or WORST."""
    found = []
    for count in COUNTS:
        core = lambda c=count: make.core(c, 1.0, "multiply")  # noqa: E731
        ours = lambda c=count: make.ours(c, region=True, strengths=STRENGTHS)  # noqa: E731
        close, fast = (lambda o=ours, q=quality: keep(o(), q) for quality in ("close", "fast"))
        rows = [("core, plain", core, ""), ("exact", ours, ""), ("close", close, ""), ("fast", fast, "")]
        found += [(count, 20, *row) for row in rows]
        if count == 3:
            bias = lambda c=count: make.core(c, STRENGTHS[0], "attn_bias")  # noqa: E731
            found += [(count, 20, "core, attn_bias", bias, ""), (count, 20, "fast, flash forced", fast, "flash")]
            worst = lambda o=ours: keep(o(), "automatic")  # noqa: E731
            found += [(count, 20, "automatic, full in every step", worst, WORST)]
            found += [(count, 28, *row) for row in (rows[0], rows[2], rows[3])]
    return found


def measure(model: Any, conditioning: list, side: int, steps: int, forced: str) -> tuple[float, float]:
    """Seconds of a picture, and its peak memory in GiB beyond what was allocated."""
    from benchmarks.pictures import seconds

    cuda = torch.cuda.is_available()
    keeping = sys.modules["redux_control.redux.keeping"]
    tolerance = 0.0 if forced == WORST else keeping.TOLERANCE
    with backend(forced if cuda and forced != WORST else ""), mock.patch.object(keeping, "TOLERANCE", tolerance):
        seconds(model, conditioning, side, side, steps=4)
        before = torch.cuda.memory_allocated() if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        taken = seconds(model, conditioning, side, side, steps=steps)
    return taken, ((torch.cuda.max_memory_allocated() if cuda else 0) - before) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="a ComfyUI, 0.18 or newer")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="draw there how the cost grows, if matplotlib is installed")
    parser.add_argument("--small", action="store_true", help="a tiny model and small pictures, to try the script")
    args = parser.parse_args()
    if args.comfyui is None:
        parser.error("name a ComfyUI with --comfyui or COMFYUI_PATH")
    pack = load_pack(args.comfyui)
    model = load_flux(args.small)
    make = Conditionings(pack, 128, 5) if args.small else Conditionings(pack, 4096)
    keep = sys.modules["redux_control.nodes.keep"].ReduxKeep
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}, strengths {STRENGTHS}\n")
    print("| references | steps | case | s | of core | GiB |\n|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    plain: dict[tuple[int, int], float] = {}
    for count, steps, name, build, forced in cases(make, lambda cond, quality: keep.execute(cond, quality).args[0]):
        taken, memory = measure(model, build(), 128 if args.small else SIDE, steps, forced)
        plain.setdefault((count, steps), taken)  # core comes first
        ratio = taken / plain[count, steps]
        rows.append({"references": count, "steps": steps, "case": name, "s": taken, "of core": ratio, "GiB": memory})
        print(f"| {count} | {steps} | {name} | {taken:.2f} | {ratio:.2f} | {memory:.2f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"device": device, "rows": rows}, indent=1) + "\n")
    if args.plot:
        draw_kept(rows, args.plot, device)


if __name__ == "__main__":
    main()
