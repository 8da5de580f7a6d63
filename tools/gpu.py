"""`make test-gpu`: a real ComfyUI process for each option that moves models or changes how they compute, on a GPU.

Each paints one picture with a weighted reference, which must be near that of the default options; then one of another
reference with another seed, for which no model may be loaded anew; then its memory is read. Models are the small
random ones of tools/checkpoints.py. The table is printed, and written as gpu.json and gpu.md to the folder of --output.

    python -m tools.gpu [--output FOLDER] [--jobs 4]
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from . import checkpoints, host, workflow
from .client import Client
from .errors import ToolError
from .server import Server, has_gpu, last_error
from .signals import end_on_signals

VARIATION = host.ROOT / "workflows" / "api" / "image_variation.json"
PHOTOGRAPH = host.ROOT / "workflows" / "input" / "cat.jpg"
SIDE, STEPS = 128, 4
SEEDS = 61, 62

DEFAULT = ""
OPTIONS = (
    DEFAULT,
    "--lowvram",
    "--novram",
    "--highvram",
    "--gpu-only",
    "--disable-dynamic-vram",
    "--disable-dynamic-vram --lowvram",
    "--fp8_e4m3fn-text-enc",
    "--force-fp16",
    "--use-pytorch-cross-attention",
    "--use-split-cross-attention",
    "--use-quad-cross-attention",
    "--use-sage-attention",
    "--use-flash-attention",
    "--use-ck-attention",
    "--async-offload",
    "--fast",
    "--cache-none",
    "--cache-ram",
)
PACKAGES = {"--use-sage-attention": "sageattention", "--use-flash-attention": "flash_attn"}
# The share of another seed's distance by which a picture may differ from that of the default options.
NEAR = 0.1
NEAR_IN_FP8 = 0.5
# Options that ask for models to be put away, or for every node to run again.
MAY_LOAD_AGAIN = ("--novram", "--cache-none")


@dataclass
class Row:
    """What one process did; `apart` is the mean difference of a pixel from the default's picture, in 0..1."""

    options: str
    apart: float = 0.0
    limit: float = 0.0
    first_seconds: float = 0.0
    second_seconds: float = 0.0
    loads: int = 0
    reserved_mib: int = 0
    backend: str = ""
    memory: str = ""
    failure: str = ""
    skipped: str = ""

    @property
    def verdict(self) -> str:
        if self.skipped or self.failure:
            return self.skipped or f"FAILED: {self.failure}"
        if not self.apart <= self.limit:
            return f"FAILED: the picture is {self.apart:.4f} from the default's, more than {self.limit:.4f}"
        if self.loads and not any(option in self.options.split() for option in MAY_LOAD_AGAIN):
            return f"FAILED: {self.loads} models were loaded again"
        return "ok"


@dataclass
class Painted:
    """A row and its two pictures."""

    row: Row
    pictures: tuple[np.ndarray[Any, Any], ...] = ()


def paint(options: str, comfy: host.Host, folder: Path) -> Painted:
    """Start a process, paint twice, read its log and its memory."""
    row = Row(options)
    package = next((name for option, name in PACKAGES.items() if option in options), None)
    if package and importlib.util.find_spec(package) is None:
        row.skipped = f"left out: {package} is not installed"
        return Painted(row)
    known = (comfy.path / "comfy" / "cli_args.py").read_text("utf-8")
    unknown = [option for option in options.split() if f'"{option}"' not in known]
    if unknown:
        row.skipped = f"left out: ComfyUI {comfy.version} has no {' '.join(unknown)}"
        return Painted(row)
    checkpoints.write_checkpoints(folder / "models")
    server = Server(comfy, folder, arguments=options.split())
    try:
        with server:
            client, started = Client(server.url), _length(server.log)
            graph, other = _graph(client.upload(PHOTOGRAPH)), _graph(client.upload(_mirrored(), "mirrored.png"))
            first, row.first_seconds = _run(client, workflow.set_seed(graph, SEEDS[0]))
            before = _length(server.log)
            second, row.second_seconds = _run(client, workflow.set_seed(other, SEEDS[1]))
            log = server.log.read_text("utf-8", "replace")
            row.loads = len(re.findall(r"Requested to load", log[before:]))
            row.backend = ", ".join(dict.fromkeys(re.findall(r"Attention over groups of keys, .*: backend (.+)", log)))
            row.memory = "dynamic" if "prepared for dynamic" in log else "static"
            device = json.loads(client.request("/system_stats"))["devices"][0]
            row.reserved_mib = (device["torch_vram_total"] - device["torch_vram_free"]) >> 20
            if "Traceback" in log[started:]:
                row.failure = last_error(log[started:])
    except ToolError as error:
        row.failure = str(error)
        print(f"--- log of {options or 'the default'}:", *_tail(server.log), sep="\n", file=sys.stderr)
        return Painted(row)
    return Painted(row, (first, second))


def _mirrored() -> bytes:
    """The photograph the other way round, so that a tower has work in the second run as well."""
    stream = io.BytesIO()
    ImageOps.mirror(Image.open(PHOTOGRAPH)).save(stream, "PNG")
    return stream.getvalue()


def _length(log: Path) -> int:
    return len(log.read_text("utf-8", "replace"))


def _tail(log: Path, lines: int = 30) -> list[str]:
    return log.read_text("utf-8", "replace").splitlines()[-lines:] if log.exists() else []


def _graph(photograph: str) -> workflow.Workflow:
    graph = workflow.use_models(workflow.read(VARIATION), vars(checkpoints.NAMES))
    graph = workflow.set_inputs(workflow.shrink(graph, SIDE, STEPS), "LoadImage", image=photograph)
    return workflow.set_inputs(graph, "ReduxApply", strength=0.5)


def _run(client: Client, graph: workflow.Workflow) -> tuple[np.ndarray[Any, Any], float]:
    start = time.monotonic()
    image = client.run(graph, timeout=240).images[0]
    seconds = time.monotonic() - start
    pixels = Image.open(io.BytesIO(client.fetch(image))).convert("RGB")
    return np.asarray(pixels, dtype=np.float32) / 255, seconds


def compare(painted: Sequence[Painted]) -> list[Row]:
    """The rows, measured against the first one, which has the default options."""
    default = painted[0].pictures
    for one in painted:
        if default and one.pictures:
            one.row.apart = float(np.abs(one.pictures[0] - default[0]).mean())
            near = NEAR_IN_FP8 if "fp8" in one.row.options else NEAR
            one.row.limit = near * float(np.abs(default[1] - default[0]).mean())
        elif not one.row.skipped and not one.row.failure:
            one.row.failure = "there is no picture of the default options to compare with"
    return [one.row for one in painted]


def table(rows: Sequence[Row]) -> str:
    titles = [
        "options",
        "verdict",
        "from the default",
        "first run, s",
        "second, s",
        "loads again",
        "memory",
        "MiB after",
    ]
    lines = ["| " + " | ".join([*titles, "attention of the weighted steps"]) + " |", "|---" * 9 + "|"]
    for row in rows:
        numbers = [f"{row.apart:.4f} of {row.limit:.4f}", f"{row.first_seconds:.2f}", f"{row.second_seconds:.2f}"]
        cells = [f"`{row.options}`" if row.options else "none", row.verdict, *numbers, str(row.loads), row.memory]
        lines.append("| " + " | ".join([*cells, str(row.reserved_mib), row.backend]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a folder for gpu.json and gpu.md")
    parser.add_argument("--jobs", type=int, default=4, help="processes at a time")
    parser.add_argument("--only", default=",".join(OPTIONS), help='beside the default, e.g. --only="--lowvram,--fast"')
    args = parser.parse_args()
    end_on_signals()
    try:
        if not has_gpu():
            raise ToolError("No GPU is found: these checks need one, and the others are `make test`.")
        comfy = host.ensure(os.environ.get("REDUX_HOST") or None)
        options = list(dict.fromkeys([DEFAULT, *args.only.split(",")]))
        with tempfile.TemporaryDirectory(prefix="redux-gpu-") as folder, ThreadPoolExecutor(args.jobs) as pool:
            folders = [Path(folder) / str(index) for index in range(len(options))]
            rows = compare(list(pool.map(paint, options, [comfy] * len(options), folders)))
    except ToolError as error:
        sys.exit(f"error: {error}")
    text = table(rows)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        facts = [{**asdict(row), "verdict": row.verdict} for row in rows]
        (args.output / "gpu.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
        (args.output / "gpu.md").write_text(text, "utf-8")
    print(text)
    if any(row.verdict.startswith("FAILED") for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
