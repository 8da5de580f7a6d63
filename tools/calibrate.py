"""Calibrate a FLUX from the command line: the node Calibrate Redux, without the page.

    python -m tools.calibrate --url http://127.0.0.1:8188             # on a ComfyUI that runs
    python -m tools.calibrate --model flux1-dev.safetensors           # on one that is started (COMFYUI_PATH: yours)

It prints what the presets keep, and the file, which stands in the output folder of that ComfyUI. Stopped with Ctrl-C
and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from miniature.install import install

from .client import Client, Progress
from .errors import ToolError
from .host import ROOT, ensure
from .server import Server
from .signals import end_on_signals
from .workflow import Workflow

AUTOMATIC = "automatic"


def graph(args: argparse.Namespace) -> Workflow:
    """Loaders and the node, in API format."""
    flux = {"model_name": args.model, "text_name_1": AUTOMATIC, "text_name_2": AUTOMATIC, "vae_name": AUTOMATIC}
    given = {"minutes": args.minutes, "contents": args.contents, "styles": args.styles, "steps": args.steps}
    inputs = {name: value for name, value in given.items() if value is not None}
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "redux": ["2", 0]}
    return {
        "1": {"class_type": "ReduxLoadFlux", "inputs": flux},
        "2": {"class_type": "ReduxLoader", "inputs": {"vision_name": args.vision, "redux_name": args.redux}},
        "3": {"class_type": "ReduxCalibrate", "inputs": {**links, **inputs, "filename_prefix": args.prefix}},
    }


def calibrate(args: argparse.Namespace) -> str:
    """The node's report."""
    with ExitStack() as stack:
        url = args.url
        if not url:
            host, base = ensure(None), args.folder
            (base / "models").mkdir(parents=True, exist_ok=True)
            install(base / "models")
            print(f"Starting ComfyUI {host.version} ({host.path}) ...", file=sys.stderr, flush=True)
            url = stack.enter_context(Server(host, base)).url
        client, start = Client(url), time.monotonic()

        def show(progress: Progress) -> None:
            if progress.node_type == "ReduxCalibrate" and sys.stderr.isatty():
                spent = time.monotonic() - start
                left = spent / max(1, progress.value) * (progress.max - progress.value)
                text = f"{progress.value} of {progress.max} pictures, about {left / 60:.0f} min more"
                print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

        result = client.run(graph(args), show, timeout=3600 + 240 * (args.minutes or 15))
    return "\n".join(result.outputs.get("3", {}).get("text", ["It was calibrated before, with the same settings."]))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a ComfyUI that runs; without it one is started")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "output" / "calibration", help="of the one that is started"
    )
    for name, what in (("model", "FLUX.1 file"), ("vision", "vision tower"), ("redux", "Redux projector")):
        parser.add_argument(f"--{name}", default=AUTOMATIC, help=f"{what}; automatic takes what is installed")
    parser.add_argument("--minutes", type=float, help="about how long it may take")
    parser.add_argument("--contents", help="things that differ in content, one a line")
    parser.add_argument("--styles", help="styles that the model knows, one a line")
    parser.add_argument("--steps", type=int, help="of the sampler")
    parser.add_argument("--prefix", default="redux/presets", help="of the file, in ComfyUI's output folder")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    end_on_signals()
    try:
        print(calibrate(args))
    except KeyboardInterrupt:
        sys.exit(130)
    except ToolError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
