"""How long a calibration of FLUX.1-dev takes at full size, in a real ComfyUI with random weights.

    python benchmarks/calibrate.py --comfyui PATH [--minutes 15] [--pictures 12] [--whole] [--json FILE] [--small]

Painted are pictures as *Calibrate Redux* paints them (512 x 512, 8 steps, VAE and vision tower included): from text
alone, with plain Redux, and with random head weights, in turns, and the medians give the time of the whole course for
several numbers of random halves. `--whole` runs the course itself as well, in a temporary folder, and times that.
Texts are random, since they are encoded once. `--small` tries it with a tiny FLUX and small pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from benchmarks.flux import load_flux, load_pack  # noqa: E402

PAIRS = (100, 200, 400, 600)


class RandomWords:
    """A CLIP that gives each text a random conditioning."""

    def __init__(self, width: int) -> None:
        self.width = width

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list:
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        return [[torch.randn(1, 256, self.width, generator=generator), {"pooled_output": torch.zeros(1, 768)}]]


def load_vae() -> Any:
    """FLUX's VAE with random weights, through ComfyUI's loader."""
    import comfy.ldm.modules.diffusionmodules.model as parts
    import comfy.sd

    config = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    config |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    modules = {"encoder": parts.Encoder(**config), "decoder": parts.Decoder(**config)}
    weights = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for key, value in weights.items():
        weights[key] = torch.ones_like(value) if "norm" in key and value.ndim == 1 else torch.randn_like(value) * 0.02
    return comfy.sd.VAE(sd=weights)


def load_redux(width: int, small: bool) -> Any:
    """Tower and projector with random weights under ComfyUI's memory management."""
    import comfy.model_management as memory
    import comfy.ops

    library = sys.modules["redux_control.redux"]
    host = sys.modules["redux_control.nodes.host.model"]
    sizes = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "mlp_size": 128, "image_size": 70, "patch_size": 14}
    vision = library.SiglipConfig(**(sizes if small else {}))
    projector = library.ReduxConfig(in_features=vision.hidden_size, hidden_features=3 * width, out_features=width)
    device = memory.text_encoder_device()
    dtype = host.compute_dtype(device)
    model = library.ReduxModel(vision, projector, operations=comfy.ops.manual_cast, dtype=dtype).eval()
    model.dtype, model.encoder = dtype, "random"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    memory.archive_model_dtypes(model)
    return host.HostedModel(model, device, memory.text_encoder_offload_device())


def time_pictures(painter: Any, count: int) -> dict[str, float]:
    """Median seconds of each kind of picture."""
    calibration = sys.modules["redux_control.redux.calibration"]
    measure = sys.modules["redux_control.redux.calibration.measure"]
    reference = calibration.Picture("reference", 100)
    halves = [half for pair in measure.draw_halves(painter.model, count) for half in pair]

    def kinds(index: int) -> dict[str, Any]:
        return {
            "text alone": calibration.Picture("prompt", index),
            "plain Redux": calibration.Picture("prompt", index, reference),
            "random head weights": calibration.Picture("prompt", index, reference, halves[index]),
        }

    for picture in kinds(0).values():  # loads the models, makes plans of kernels
        painter.look(picture)
    found: dict[str, list[float]] = {}
    for index in range(1, count + 1):
        for name, picture in kinds(index).items():
            start = time.perf_counter()
            painter.look(picture)  # ends on the CPU
            found.setdefault(name, []).append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def estimate(seconds: dict[str, float], pairs: int) -> float:
    """Minutes of a course with the node's defaults."""
    course = sys.modules["redux_control.redux.calibration.course"]
    settings = course.Settings()
    grid = len(settings.contents) * len(settings.styles) + settings.cases
    weighed = 2 * pairs + settings.cases * len(course.AIMS) * len(course.KEPT) * len(course.GAINS)
    total = grid * seconds["text alone"] + settings.cases * seconds["plain Redux"]
    return (total + weighed * seconds["random head weights"]) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="a ComfyUI, 0.18 or newer")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the node, with --whole")
    parser.add_argument("--pictures", type=int, default=12, help="of each kind")
    parser.add_argument("--whole", action="store_true", help="also: a whole course")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--small", action="store_true", help="a tiny model and small pictures, to try the script")
    args = parser.parse_args()
    if args.comfyui is None:
        parser.error("name a ComfyUI with --comfyui or COMFYUI_PATH")
    load_pack(args.comfyui)
    paint = sys.modules["redux_control.nodes.host.paint"]
    course = sys.modules["redux_control.redux.calibration.course"]
    width = 128 if args.small else 4096
    manner = paint.Manner(64, 2, 3.5) if args.small else paint.Manner(512, 8, 3.5)
    with torch.inference_mode():
        painter = paint.FluxPainter(
            load_flux(args.small), RandomWords(width), load_vae(), load_redux(width, args.small), manner
        )
        seconds = time_pictures(painter, args.pictures)
        found: dict[str, Any] = {"seconds": seconds, "minutes": {n: round(estimate(seconds, n), 2) for n in PAIRS}}
        if args.whole:
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                presets = course.Course(painter, course.Settings(minutes=args.minutes), Path(folder)).run()
            spent = (time.perf_counter() - start) / 60
            found["whole course"] = {"minutes": round(spent, 2), "pictures": presets.measured["pictures"]}
    report(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def report(found: dict[str, Any]) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}\n\n| picture | seconds |\n|---|---|")
    for name, value in found["seconds"].items():
        print(f"| {name} | {value:.3f} |")
    print("\n| pairs of random halves | minutes, as estimated from these |\n|---|---|")
    for pairs, minutes in found["minutes"].items():
        print(f"| {pairs} | {minutes:.1f} |")
    if "whole course" in found:
        whole = found["whole course"]
        print(f"\nA whole course of {whole['pictures']} pictures took {whole['minutes']:.1f} minutes.")


if __name__ == "__main__":
    main()
