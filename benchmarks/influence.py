"""What an influence map costs a step of FLUX.1-dev: its recording, and what is shown of it while sampling.

    python benchmarks/influence.py --comfyui PATH [--rounds 5] [--steps 12] [--json FILE]

Runs of ComfyUI's own sampler take turns: without a map in the graph, with one whose shares are recorded, and with what
a page gets besides (a sentence and a JPEG on the node that samples). Random weights, as in sampling.py; the first step
is left out. `--small` runs a small model on any device, at a size at which a step is mostly attention.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from benchmarks.flux import Conditionings, load_flux, load_pack  # noqa: E402
from benchmarks.sampling import STRENGTHS, sample  # noqa: E402

CASES = ("no map", "recorded", "recorded and shown")
SMALL_SIDE = 512


@contextmanager
def graph_with(case: str) -> Iterator[list[int]]:
    """What nodes find while a graph runs, with and without a map in it, and with and without a page to show it to."""
    import comfy.utils
    from comfy_execution.utils import CurrentNodeContext

    sent: list[int] = []

    def show(value: int, total: int, picture: Any, **_: Any) -> None:
        if picture is not None:
            picture[1].save(buffer := io.BytesIO(), picture[0], quality=95)
            sent.append(len(buffer.getvalue()))

    prompt = {"1": {"class_type": "KSampler", "inputs": {}}}
    if case != CASES[0]:
        prompt["2"] = {"class_type": "ReduxInfluence", "inputs": {"images": ["1", 0]}}
    queue = SimpleNamespace(currently_running={0: (0, "id", prompt, {}, [])})
    sent = {"send_progress_text": lambda *_: None, "send_sync": lambda *_: None}
    page = SimpleNamespace(prompt_queue=queue, client_id="page", **sent)
    before = sys.modules.get("server"), comfy.utils.PROGRESS_BAR_HOOK
    sys.modules["server"] = SimpleNamespace(PromptServer=SimpleNamespace(instance=page))  # type: ignore[assignment]
    comfy.utils.set_progress_bar_global_hook(show if case == CASES[2] else None)
    try:
        with CurrentNodeContext("id", "1" if case == CASES[2] else ""):
            yield sent
    finally:
        sys.modules.pop("server")
        if before[0] is not None:
            sys.modules["server"] = before[0]
        comfy.utils.set_progress_bar_global_hook(before[1])


def measure(model: Any, conditioning: list, side: int, steps: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of each step by case, and how many pictures were shown."""
    times: dict[str, list[float]] = {case: [] for case in CASES}
    shown = 0
    for round_ in range(rounds + 1):  # the first warms up
        for case in CASES:
            with graph_with(case) as sent:
                _, *rest = sample(model, conditioning, side, steps)
            if round_:
                times[case] += rest
                shown += len(sent)
    return times, shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="a ComfyUI, 0.18 or newer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--small", action="store_true", help="a small model, to try the script")
    args = parser.parse_args()
    if args.comfyui is None:
        parser.error("name a ComfyUI with --comfyui or COMFYUI_PATH")
    pack = load_pack(args.comfyui)
    model = load_flux(args.small)
    make = Conditionings(pack, 128, 5) if args.small else Conditionings(pack, 4096)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    figures = []
    for count in (1, 3):
        times, shown = measure(
            model, make.ours(count, strengths=STRENGTHS), SMALL_SIDE if args.small else 1024, args.steps, args.rounds
        )
        medians = {case: statistics.median(steps) for case, steps in times.items()}
        means = {case: statistics.mean(steps) for case, steps in times.items()}
        figures += [
            {"references": count, "case": case, "ms": medians[case] * 1e3, "mean_ms": means[case] * 1e3, "shown": shown}
            for case in CASES
        ]
    print(f"\n{device}, torch {torch.__version__}, {args.rounds} rounds of {args.steps} steps\n")
    print("| references | case | ms a step | to no map | mean | to no map | pictures shown |")
    print("|---|---|---|---|---|---|---|")
    for row in figures:
        base = next(other for other in figures if other["references"] == row["references"])
        print(
            f"| {row['references']} | {row['case']} | {row['ms']:.1f} | {row['ms'] / base['ms']:.3f} "
            f"| {row['mean_ms']:.1f} | {row['mean_ms'] / base['mean_ms']:.3f} "
            f"| {row['shown'] if row['case'] == CASES[2] else ''} |"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
