"""Time of *Encode Reference*, preview and all, beside ComfyUI's *CLIP Vision Encode* and *Apply Style Model*.

    python benchmarks/encode_nodes.py --comfyui PATH [--memory dynamic|static|gpu-only] [--json FILE] [--small]

Node against nodes, as a graph runs them: 1024 x 1024 pictures in main memory to tokens where ComfyUI leaves them, with
random weights of the real size, through ComfyUI's own loaders and ours. Wall time, the medians of rounds in which the
rows take turns; every round has new pictures, but for the row "again". Memory is managed as main.py sets it up. The
rows "of it" are the parts of *Encode Reference*, each waited for, in rounds of their own.

Shapes: B pictures, Y x X pixels, C channels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from benchmarks.encode import PICTURE_SIDE, SO400M  # noqa: E402
from benchmarks.encoders import Weights  # noqa: E402
from benchmarks.flux import load_pack  # noqa: E402
from tools import checkpoints  # noqa: E402

Run = Callable[[torch.Tensor], object]


def start_comfyui(args: argparse.Namespace, folder: Path) -> None:
    """ComfyUI's folders, and its dynamic memory if that is wanted, as main.py starts it."""
    if args.memory == "dynamic":  # before anything of ComfyUI, whose modules look for the library as they are imported
        import comfy_aimdo.control

        comfy_aimdo.control.init()
    load_pack(args.comfyui, gpu_only=args.memory == "gpu-only")
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import folder_paths

    for kind in ("temp", "output", "input"):
        (folder / kind).mkdir(exist_ok=True)
        getattr(folder_paths, f"set_{kind}_directory")(str(folder / kind))
    for kind in ("clip_vision", "style_models"):
        folder_paths.add_model_folder_path(kind, str(folder), is_default=True)
    if args.memory == "dynamic":
        devices = comfy.model_management.get_all_torch_devices()
        if not comfy_aimdo.control.init_devices((device.index, 0) for device in devices):
            sys.exit("comfy-aimdo does not start here; use --memory static.")
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True


def our_node(files: tuple[Path, Path]) -> Run:
    encode = sys.modules["redux_control.nodes.encode"].ReduxEncode
    load_model = sys.modules["redux_control.nodes.host.model"].load_model
    model = load_model(*map(str, files), "default")
    return lambda images_BYXC: encode.execute(model, images_BYXC, {"fit": "stretch"})


def cores_nodes(files: tuple[Path, Path]) -> Run:
    import comfy.model_management as memory

    import nodes

    clip_vision = nodes.CLIPVisionLoader().load_clip(files[0].name)[0]
    style_model = nodes.StyleModelLoader().load_style_model(files[1].name)[0]
    text = [[torch.zeros(1, 256, 4096, device=memory.intermediate_device()), {}]]  # where a text encoder leaves it

    def run(images_BYXC: torch.Tensor) -> object:
        output = nodes.CLIPVisionEncode().encode(clip_vision, images_BYXC, "none")[0]
        return nodes.StyleModelApply().apply_stylemodel(text, style_model, output, 1.0, "multiply")

    return run


def pictures(batch: int, seed: int) -> torch.Tensor:
    coarse = torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(PICTURE_SIDE, PICTURE_SIDE), mode="bilinear").movedim(1, -1)


def wall_ms(run: Run, images_BYXC: torch.Tensor) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run(images_BYXC)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def stages(images: list[torch.Tensor], run: Run) -> dict[str, float]:
    """Where the time of *Encode Reference* goes: medians over the pictures, ms."""
    encode = sys.modules["redux_control.nodes.encode"]
    model = sys.modules["redux_control.nodes.host.model"]
    spent: dict[str, list[float]] = {}
    parts = [
        ("views", sys.modules["redux_control.redux.model"].ReduxModel, "views"),
        ("their names", model, "_content"),
        ("tower and projector", model.HostedModel, "_encode"),
        ("all of the encoding", model.HostedModel, "encode"),
        ("drawing of each", encode, "draw_views"),
        ("preview, to its files", encode, "begin_previews"),
    ]
    with ExitStack() as stack:
        for label, owner, name in parts:
            timed = _timed(getattr(owner, name), spent.setdefault(label, []))
            stack.enter_context(mock.patch.object(owner, name, timed))
        for images_BYXC in images:
            run(images_BYXC)
    return {f"of it: {label}": statistics.median(times) for label, times in spent.items() if times}


def _timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        result = []
        times.append(wall_ms(lambda _: result.append(function(*args, **options)), args[0]))
        return result[0]

    return call


def measure(rows: dict[str, Run], batch: int, repeat: int) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in (*rows, "Encode Reference, the same again")}
    for round_ in range(repeat + 4):
        images_BYXC = pictures(batch, round_).contiguous()
        times = {name: wall_ms(run, images_BYXC) for name, run in rows.items()}
        times["Encode Reference, the same again"] = wall_ms(rows["Encode Reference"], images_BYXC)
        if round_ >= 4:  # plans made, graph captured
            for name, ms in times.items():
                samples[name].append(ms)
    fresh = [pictures(batch, 1000 + number).contiguous() for number in range(repeat)]
    return {name: statistics.median(values) for name, values in samples.items()} | stages(
        fresh, rows["Encode Reference"]
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="default: $COMFYUI_PATH")
    parser.add_argument("--memory", choices=["dynamic", "static", "gpu-only"], default="static")
    parser.add_argument("--small", action="store_true", help="a tower of two layers, and our node only")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()
    if args.comfyui is None:
        parser.error("name a ComfyUI with --comfyui or COMFYUI_PATH")
    return args


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="redux-nodes-") as name, torch.inference_mode():
        start_comfyui(args, Path(name))
        import asyncio

        asyncio.run(_nodes_of_the_pack())
        files = Weights.make(Path(name), checkpoints.SIZES if args.small else SO400M).files
        rows: dict[str, Run] = {"Encode Reference": our_node(files)}
        if not args.small:
            rows["CLIP Vision Encode and Apply Style Model"] = cores_nodes(files)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{device}, torch {torch.__version__}, memory {args.memory}, median of {args.repeat}")
        found: dict[str, dict[str, float]] = {}
        for batch in args.batches:
            print(f"\n| pictures: {batch} | ms | to ours |\n|---|---|---|")
            found[str(batch)] = medians = measure(rows, batch, args.repeat)
            for label, ms in medians.items():
                print(f"| {label} | {ms:.1f} | {ms / medians['Encode Reference']:.2f} |", flush=True)
        if args.json:
            args.json.write_text(json.dumps({"device": device, "memory": args.memory, "ms": found}, indent=1) + "\n")


async def _nodes_of_the_pack() -> Any:
    return await sys.modules["redux_control"].comfy_entrypoint()


if __name__ == "__main__":
    main()
