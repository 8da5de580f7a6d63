"""One step of FLUX.1-dev at full size in a real ComfyUI: with and without a reference, core's mask against ours.

    python benchmarks/sampling.py --comfyui PATH [--tokens] [--pictures] [--rounds 3] [--json FILE] [--plot FILE]

The weights are random bf16 (12 billion), which changes no time. Every case is a run of ComfyUI's own sampler; the
cases take turns, round after round, and the median step is compared. The first step of a case is timed by itself,
since some kernels make a plan for a new shape then. References have unequal strengths, as weights where a row does not
say even, so that none share a kernel call, unless it says equal; of several each region is a stripe of the picture, of
one it is all of it. `--pictures` adds whole pictures (pictures.py). `--small` runs a tiny model on any
device, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from benchmarks.flux import Conditionings, load_flux, load_pack  # noqa: E402
from benchmarks.plot import draw_growth  # noqa: E402

STEPS = 6
STRENGTHS = (0.6, 0.25, 1.5, 0.4, 0.8, 2.0)
HEADS = "double:.h0-7=0.5, double:.h16-23=0, single:.h4-15=0.25, single:20-37.h0-11=0"  # as presets have them
COUNTS = (1, 3, 6)
SIDES = {"1 MP": 1024, "2 MP": 1408}
POOLED = (729, 324, 169, 81, 36)


@dataclass
class Case:
    """One way to sample; `baseline` names the case whose median step is 1."""

    group: str
    name: str
    conditioning: Callable[[], list]
    side: int
    backend: str = ""
    steps: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    peak_gib: float = 0.0

    @property
    def median(self) -> float:
        return statistics.median(self.steps)


def step_cases(make: Conditionings) -> list[Case]:
    cases = []
    for size, side in SIDES.items():
        for count in COUNTS:
            group = f"{size}, {count} reference{'s' * (count > 1)}"
            rows: list[tuple[str, Callable[[], list], str]] = [
                ("core, plain Redux", lambda c=count: make.core(c, 1.0, "multiply"), ""),
                ("text only", lambda: make.text_only, ""),
                ("core, attn_bias", lambda c=count: make.core(c, STRENGTHS[0], "attn_bias"), ""),
                ("ours, strength", lambda c=count: make.ours(c, strengths=STRENGTHS), ""),
                ("ours, equal strength", lambda c=count: make.ours(c, strength=STRENGTHS[0]), ""),
                ("ours, strength and region", lambda c=count: make.ours(c, region=True, strengths=STRENGTHS), ""),
                ("ours, even", lambda c=count: make.ours(c, strengths=STRENGTHS, response="even"), ""),
                (
                    "ours, even and region",
                    lambda c=count: make.ours(c, region=True, strengths=STRENGTHS, response="even"),
                    "",
                ),
                (
                    "ours, strength and head weights",
                    lambda c=count: make.ours(c, strengths=STRENGTHS, blocks=HEADS),
                    "",
                ),
                ("ours, strength, flash forced", lambda c=count: make.ours(c, strengths=STRENGTHS), "flash"),
            ]
            if count > 1:  # text only costs the same for any number, and the dense mask's cost is shown by one
                rows = [row for row in rows if row[0] not in ("text only", "core, attn_bias")]
            cases += [Case(group, name, build, side, backend) for name, build, backend in rows]
    return cases


def token_cases(make: Conditionings) -> list[Case]:
    cases = []
    for count in (1, 3, 6):
        group = f"1 MP, {count} reference{'s' * (count > 1)}"
        cases.append(Case(group, "core, plain Redux, 729 tokens", lambda c=count: make.core(c, 1.0, "multiply"), 1024))
        for tokens in POOLED:
            side = round(tokens**0.5)
            build = lambda c=count, s=side: make.ours(c, s, strength=1.0)  # noqa: E731
            cases.append(Case(group, f"ours, {tokens} tokens each, normalize", build, 1024))
    return cases


def sample(model: Any, conditioning: list, side: int, steps: int) -> list[float]:
    """Seconds of each step of a run of ComfyUI's sampler, Euler, without classifier-free guidance."""
    import comfy.sample
    import comfy.samplers

    latent = torch.zeros(1, 16, side // 8, side // 8)
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    marks = []

    def callback(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    counted = _StartMark(model, marks)
    with torch.inference_mode(), counted:
        comfy.sample.sample_custom(
            counted.model, torch.randn(latent.shape), 1.0, sampler, sigmas, conditioning, conditioning, latent,
            callback=callback, disable_pbar=True, seed=0,
        )  # fmt: skip
    return [end - start for start, end in zip(marks, marks[1:], strict=False)]


class _StartMark:
    """Notes when the first model call begins, so that loading the model is not part of the first step."""

    def __init__(self, model: Any, marks: list[float]) -> None:
        self.model = model.clone()
        self.marks = marks
        self.model.set_model_unet_function_wrapper(self._call)

    def _call(self, apply_model: Callable[..., torch.Tensor], call: dict[str, Any]) -> torch.Tensor:
        if not self.marks:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())
        return apply_model(call["input"], call["timestep"], **call["c"])

    def __enter__(self) -> None:
        self.marks.clear()

    def __exit__(self, *_: object) -> None:
        return None


@contextmanager
def backend(name: str) -> Any:
    if name:
        os.environ["REDUX_ATTENTION"] = name
    try:
        yield
    finally:
        os.environ.pop("REDUX_ATTENTION", None)


def measure(model: Any, cases: list[Case], rounds: int) -> None:
    sample(model, cases[0].conditioning(), 512, 2)  # loads the model, and warms the libraries up
    for round_ in range(rounds):
        for case in cases:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            with backend(case.backend):
                try:
                    first, *rest = sample(model, case.conditioning(), case.side, STEPS)
                except (RuntimeError, ValueError) as error:
                    print(f"{case.group}, {case.name}: {error}", file=sys.stderr)
                    continue
            if round_ == 0:
                case.first.append(first)
            case.steps += rest
            if torch.cuda.is_available():
                case.peak_gib = torch.cuda.max_memory_allocated() / 2**30


def report(cases: list[Case]) -> None:
    """A Markdown table for each group; the first case of a group is 1."""
    for group in dict.fromkeys(case.group for case in cases):
        members = [case for case in cases if case.group == group and case.steps]
        base = members[0]
        print(f"\n{group}\n")
        print("| case | ms a step | against the first case | first step, in steps | peak GiB |")
        print("|---|---|---|---|---|")
        for case in members:
            print(
                f"| {case.name} | {case.median * 1e3:.1f} | {case.median / base.median:.2f} "
                f"| {case.first[0] / case.median:.2f} | {case.peak_gib:.2f} |"
            )


def figures(case: Case) -> dict[str, Any]:
    steps = {"ms": case.median * 1e3, "first_ms": case.first[0] * 1e3, "peak_gib": case.peak_gib} if case.steps else {}
    return {"group": case.group, "name": case.name, **steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="a ComfyUI, 0.18 or newer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", action="store_true", help="also: whole pictures of 20 steps")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--plot", type=Path, help="draw there how the cost grows, if matplotlib is installed")
    parser.add_argument("--tokens", action="store_true", help="also: fewer tokens, 1, 3 and 6 references")
    parser.add_argument("--small", action="store_true", help="a tiny model and small pictures, to try the script")
    args = parser.parse_args()
    if args.comfyui is None:
        parser.error("name a ComfyUI with --comfyui or COMFYUI_PATH")
    if args.small:
        SIDES.update({"1 MP": 128, "2 MP": 176})
    pack = load_pack(args.comfyui)
    from benchmarks import pictures  # after ComfyUI is on the path

    model = load_flux(args.small)
    make = Conditionings(pack, 128, 5) if args.small else Conditionings(pack, 4096)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}, strengths {STRENGTHS}, {args.rounds} rounds of {STEPS} steps")
    cases = step_cases(make)
    measure(model, cases, args.rounds)
    report(cases)
    if args.json:
        args.json.write_text(json.dumps([figures(case) for case in cases], indent=1) + "\n")
    if args.plot:
        draw_growth([figures(case) for case in cases], args.plot, device)
    if args.pictures:
        pictures.run(model, make, args.small)
    if args.tokens:
        cases = token_cases(make)
        for case in cases:
            case.side = 128 if args.small else case.side
        measure(model, cases, args.rounds)
        report(cases)


if __name__ == "__main__":
    main()
