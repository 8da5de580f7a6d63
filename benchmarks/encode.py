"""Time and error of reading a reference: this library beside transformers + diffusers and ComfyUI's own two nodes.

    python benchmarks/encode.py [--device cuda] [--dtype bfloat16] [--small] [--comfyui PATH]

All compute with the same random weights of the real size (SigLIP so400m patch14-384 and the Redux projector), unless
`--small` takes a tower of two layers. A peer that is not installed is named and left out. Rows of a table are timed
in turn, round after round, and medians are compared, so that a clock that drifts touches all rows alike.

"pixel values" is the model alone, input and result on the device. "pictures" is what a user waits for: a batch
[B, 1024, 1024, 3] in main memory to tokens, preprocessing included, where each one leaves them (ComfyUI: in main
memory). Error is relative, over all tokens, against this library in fp32.

Shapes: B pictures, Y x X pixels, C channels, S x S pixels that the tower reads, N tokens, D width.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from benchmarks.encoders import PEERS, Missing, Run, Weights, synchronize  # noqa: E402
from redux import ReduxModel  # noqa: E402
from tools import checkpoints  # noqa: E402

PICTURE_SIDE = 1024
SO400M = checkpoints.Sizes(
    image=384, vision_hidden=1152, vision_mlp=4304, vision_layers=27, vision_heads=16, context=4096
)


@dataclass
class Row:
    """One implementation in one table."""

    name: str
    run: Run
    samples_ms: list[float] = field(default_factory=list)
    error: float = math.nan

    @property
    def ms(self) -> float:
        return statistics.median(self.samples_ms)


def elapsed_ms(run: Run, inputs: Tensor, device: torch.device) -> float:
    synchronize(device)
    if device.type != "cuda":
        start = time.perf_counter()
        run(inputs)
        return (time.perf_counter() - start) * 1e3
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run(inputs)
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def measure(rows: list[Row], inputs: Tensor, expected: Tensor, args: argparse.Namespace) -> None:
    for row in rows:
        for _ in range(3):  # the third call of one shape is as fast as the hundredth: plans made, graph captured
            found = row.run(inputs)
        found, wanted = found.double().cpu(), expected.double().cpu()
        row.error = float((found.reshape(wanted.shape) - wanted).norm() / wanted.norm())
    deadline = time.perf_counter() + args.seconds
    for round_ in range(args.repeat):
        if round_ >= 5 and time.perf_counter() > deadline:
            break
        for row in rows:
            row.samples_ms.append(elapsed_ms(row.run, inputs, args.device))


def print_table(title: str, rows: list[Row]) -> None:
    print(f"\n{title:56}{'ms':>10}{'/ redux':>10}{'error':>10}{'runs':>7}")
    for row in rows:
        ratio = row.ms / rows[0].ms
        print(f"{row.name:56}{row.ms:>10.2f}{ratio:>10.2f}{row.error:>10.1e}{len(row.samples_ms):>7}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if cuda else "cpu"))
    parser.add_argument(
        "--dtype", type=lambda name: getattr(torch, name), help="default: bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH"), help="default: $COMFYUI_PATH")
    parser.add_argument("--small", action="store_true", help="a tower of two layers, to try the benchmark out")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--repeat", type=int, default=100, help="rounds at most")
    parser.add_argument("--seconds", type=float, default=20.0, help="for one table, if five rounds take less")
    args = parser.parse_args()
    args.sizes = checkpoints.SIZES if args.small else SO400M
    args.dtype = args.dtype or (torch.bfloat16 if args.device.type == "cuda" else torch.float32)
    return args


def make_inputs(weights: Weights, batch: int, args: argparse.Namespace) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of both tables, and the tokens in fp32. Pictures are smooth noise, so that a resize has work to do."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 64, 64, generator=generator)
    images_BYXC = nn.functional.interpolate(coarse, size=(PICTURE_SIDE, PICTURE_SIDE), mode="bilinear").movedim(1, -1)
    images_BYXC = images_BYXC.mul(255).round().div(255).contiguous()
    torch.backends.cudnn.allow_tf32 = False
    model = ReduxModel.load(*weights.files, dtype=torch.float32, device=args.device)
    (view,) = model.views(images_BYXC)
    expected = model.encode_views([view]).tokens.cpu()
    torch.backends.cudnn.allow_tf32 = True
    return {"pixel values": view.pixels_BCST.to(args.device, args.dtype), "pictures": images_BYXC}, expected


@torch.inference_mode()
def main() -> None:
    args = parse_arguments()
    threads = f"{torch.get_num_threads()} thread(s)"
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else threads
    print(f"torch {torch.__version__}, {args.device} ({name}), {args.dtype}, {threads} on the CPU")
    with tempfile.TemporaryDirectory(prefix="redux-encode-") as folder:
        weights = Weights.make(Path(folder), args.sizes)
        tables: dict[str, dict[str, Run]] = {}
        for peer in PEERS:
            try:
                for kind, rows in peer(weights, args).items():
                    tables.setdefault(kind, {}).update(rows)
            except Missing as reason:
                print(f"{peer.__name__.replace('_', ' ')}: left out, {reason}")
        for batch in args.batches:
            inputs, expected = make_inputs(weights, batch, args)
            for kind, runs in tables.items():
                table = [Row(label, run) for label, run in runs.items()]
                measure(table, inputs[kind], expected, args)
                print_table(f"{kind}, batch {batch}", table)


if __name__ == "__main__":
    main()
