"""One step of FLUX.1-dev at full size with weighed Kontext pictures, against ComfyUI's own, which cannot be weighed.

    python benchmarks/kontext.py --comfyui PATH [--rounds 3] [--json FILE] [--small]

Random bf16 weights, Euler, 1 MP, no classifier-free guidance, pictures of 1 MP (4096 tokens each). Cases take turns as
in sampling.py; the first of a group, ComfyUI's own, is 1. The rows with a forced kernel compare with it where ComfyUI
uses the same one (flash by default).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from benchmarks.flux import Conditionings, load_flux, load_pack  # noqa: E402
from benchmarks.sampling import Case, figures, measure, report  # noqa: E402

STRENGTHS = (0.6, 0.25)


def list_cases(make: Conditionings, side: int) -> list[Case]:
    node = sys.modules["redux_control.nodes.weigh_latents"].ReduxWeighLatents
    half = torch.zeros(1, 64, 64)
    half[:, :, 32:] = 1.0
    cases = []
    for count in (1, 2):
        ((text, options),) = make.text_only
        latents = [torch.randn(1, 16, side // 8, side // 8, generator=make.generator) for _ in range(count)]
        base = [[text, {**options, "reference_latents": latents}]]

        def weighed(base: list = base, count: int = count, none: bool = False, **options: object) -> list:
            for number in range(1, count + 1):
                strength = 0.0 if none else STRENGTHS[number - 1]
                base = node.execute(base, number, strength, **options).args[0]
            return base

        rows: list[tuple[str, Callable[[], list], str]] = [
            ("core, plain", lambda base=base: base, ""),
            ("no pictures", lambda: make.text_only, ""),
            ("even", lambda build=weighed: build(), ""),
            ("weight", lambda build=weighed: build(response="weight"), ""),
            ("even, region", lambda build=weighed: build(region=half), ""),
            ("at 0", lambda build=weighed: build(none=True), ""),
        ]
        kernels = ("flash", "cudnn") if torch.cuda.is_available() else ()
        rows += [
            (f"{name}, {kernel} forced", lambda build=weighed, response=name: build(response=response), kernel)
            for name in ("even", "weight")
            for kernel in kernels
        ]
        group = f"1 MP, {count} picture{'s' * (count > 1)}"
        cases += [Case(group, name, build, side, kernel) for name, build, kernel in rows]
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="a ComfyUI, 0.18 or newer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--small", action="store_true", help="a tiny model and small pictures, to try the script")
    args = parser.parse_args()
    if args.comfyui is None:
        parser.error("name a ComfyUI with --comfyui or COMFYUI_PATH")
    pack = load_pack(args.comfyui)
    model = load_flux(args.small)
    make = Conditionings(pack, 128, 5) if args.small else Conditionings(pack, 4096)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}, strengths {STRENGTHS}, {args.rounds} rounds")
    cases = list_cases(make, 128 if args.small else 1024)
    measure(model, cases, args.rounds)
    report(cases)
    if args.json:
        args.json.write_text(json.dumps([figures(case) for case in cases], indent=1) + "\n")


if __name__ == "__main__":
    main()
