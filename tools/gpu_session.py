"""All that needs a GPU in one go: tests, ComfyUI's options, two GPUs, every benchmark; then the figures into the docs.

    python -m tools.gpu_session --comfyui PATH --output FOLDER [--seconds 600] [--only kept kontext] [--small]
    python -m tools.gpu_session --fill FOLDER

The first command needs torch with a GPU, what the tests need, and no network. Tests run side by side, benchmarks one
after the other; a step that would not end in time is left out, and one that fails costs no other. FOLDER gets
session.json (all figures) and session.log; the table is printed last. The second one puts the tables between the marks
of docs/gpu.md, and draws the plots in docs/, on any machine. `--small` tries all of it on any machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import gpu_tables
from .errors import ToolError
from .host import ROOT

PAGE = ROOT / "docs" / "gpu.md"


@dataclass(frozen=True)
class Step:
    """A command, {out} and {comfyui} in it; its figures are in the file of its name with .json, if it writes one.

    Attributes:
        seconds: expected on an H100 with 16 cores.
        small: what is appended, or takes its place if it begins with -m, to try it.
    """

    name: str
    command: str
    seconds: int
    small: str = "--small"
    beside: bool = False  # others of its kind
    gpus: int = 1


BENCH = "--comfyui {comfyui} --json {json}"
PYTEST = "-m pytest --tb=short -rfE"
STEPS = (
    Step("library", f"{PYTEST} tests/library", 185, f"{PYTEST} tests/library/test_boxes.py", beside=True),
    Step("host", f"{PYTEST} tests/host", 120, f"{PYTEST} tests/host/test_kernel.py", beside=True),
    Step("options", "-m tools.gpu --output {out}/options", 90, "-m tools.gpu --help", beside=True),
    Step("two-gpus", f"{PYTEST} tests/host/test_two_gpus.py", 40, "", beside=True, gpus=2),
    Step("encode-static", f"benchmarks/encode_nodes.py {BENCH} --memory static --repeat 8", 25),
    Step("encode-dynamic", f"benchmarks/encode_nodes.py {BENCH} --memory dynamic --repeat 8", 30),
    Step("encode-gpu-only", f"benchmarks/encode_nodes.py {BENCH} --memory gpu-only --repeat 8", 25),
    Step("kept", f"benchmarks/kept.py {BENCH}", 185),
    Step("kontext", f"benchmarks/kontext.py {BENCH} --rounds 1", 75),
    Step("sampling", f"benchmarks/sampling.py {BENCH} --rounds 1", 100),
    Step("foreign", "benchmarks/foreign.py --json {json}", 30),
    Step("attention", "benchmarks/attention_choices.py --rounds 5 --write {json}", 45),
)


@dataclass
class Outcome:
    name: str
    expected: int
    verdict: str = ""
    seconds: float = 0.0
    last: list[str] = field(default_factory=list)
    figures: Any = None


class Session:
    """What is common to the steps of one run."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments = arguments
        self.output = folder  # of each step's log and figures
        self.end = time.monotonic() + arguments.seconds
        self.steps = [step for step in STEPS if not arguments.only or step.name in arguments.only]

    def run(self) -> list[Outcome]:
        beside = [step for step in self.steps if step.beside]
        with ThreadPoolExecutor(max(len(beside), 1)) as pool:
            found = list(pool.map(self.run_step, beside))
        return found + [self.run_step(step) for step in self.steps if not step.beside]

    def run_step(self, step: Step) -> Outcome:
        outcome = Outcome(step.name, step.seconds)
        left = self.end - time.monotonic()
        if left < step.seconds and not self.arguments.small:
            outcome.verdict = f"left out: {left:.0f} of {step.seconds} s are left"
        elif step.gpus > 1 and _gpus() < step.gpus and not self.arguments.small:
            outcome.verdict = f"left out: it needs {step.gpus} GPUs"
        else:
            self._run(step, outcome, left)
        return outcome

    def _run(self, step: Step, outcome: Outcome, left: float) -> None:
        log, figures = self.output / f"{step.name}.log", self.output / f"{step.name}.json"
        words = self._words(step, figures)
        start = time.monotonic()
        with log.open("w") as stream:
            try:
                environ = {**os.environ, "COMFYUI_PATH": str(self.arguments.comfyui), "PYTHONUNBUFFERED": "1"}
                done = subprocess.run(
                    [sys.executable, *words], cwd=ROOT, env=environ, stdout=stream, stderr=subprocess.STDOUT,
                    timeout=min(left, 3 * step.seconds + 60), check=False,
                )  # fmt: skip
                outcome.verdict = "ok" if done.returncode == 0 else f"FAILED: exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                outcome.verdict = "FAILED: out of time"
        outcome.seconds = round(time.monotonic() - start, 1)
        outcome.last = log.read_text("utf-8", "replace").splitlines()[-60:]
        if step.name == "options":
            figures = self.output / "options" / "gpu.json"
        if figures.exists():
            outcome.figures = json.loads(figures.read_text("utf-8"))
        print(f"{step.name}: {outcome.verdict}, {outcome.seconds:.0f} s (expected {step.seconds})", flush=True)

    def _words(self, step: Step, figures: Path) -> list[str]:
        small = self.arguments.small and step.small
        command = step.small if small and step.small.startswith("-m") else step.command
        if small and not step.small.startswith("-m"):
            command += f" {step.small}"
        values = {"out": self.output, "json": figures, "comfyui": self.arguments.comfyui}
        return [word.format(**values) for word in command.split()]


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _machine() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{name}, torch {torch.__version__}"


def write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """session.json, and the ends of all logs as session.log."""
    session = {"machine": _machine(), "steps": [asdict(outcome) for outcome in outcomes]}
    (folder / "session.json").write_text(json.dumps(session, indent=1) + "\n", "utf-8")
    ends = [f"=== {one.name}: {one.verdict}\n" + "\n".join(one.last) for one in outcomes]
    (folder / "session.log").write_text("\n\n".join(ends) + "\n", "utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="default: $COMFYUI_PATH")
    parser.add_argument("--output", type=Path, default=os.environ.get("OUT"), help="default: $OUT")
    parser.add_argument("--seconds", type=float, default=600, help="for all steps")
    parser.add_argument("--only", nargs="+", default=[], choices=[step.name for step in STEPS], metavar="STEP")
    parser.add_argument("--small", action="store_true", help="tiny models and few tests, to see that it works")
    parser.add_argument("--fill", type=Path, metavar="FOLDER", help="figures of an earlier run, into the docs")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    try:
        if arguments.fill:
            gpu_tables.fill(arguments.fill, PAGE)
            return
        if arguments.comfyui is None or arguments.output is None:
            raise ToolError("Name a ComfyUI with --comfyui and a folder with --output.")
        arguments.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="redux-gpu-") as folder:
            outcomes = Session(arguments, Path(folder)).run()
    except ToolError as error:
        sys.exit(f"error: {error}")
    write(arguments.output, outcomes)
    print(gpu_tables.overview([asdict(outcome) for outcome in outcomes]))
    if any(outcome.verdict.startswith("FAILED") for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
