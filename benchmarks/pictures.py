"""Whole pictures of 20 steps: the first of a size, the same again, after a changed strength, and with EasyCache.

Called by sampling.py. "First" is that of a size that was never seen, in a process whose kernels are loaded: what the
plans for a new shape cost. Core and ours take sizes of their own, since plans are kept for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from comfy_extras.nodes_easycache import EasyCacheNode

from benchmarks.flux import Conditionings

STEPS = 20
SIZES = {"core": (1152, 896), "ours": (1216, 832), "easy": (1024, 1024)}
STRENGTHS = (0.6, 0.25, 1.5)


def run(model: Any, make: Conditionings, small: bool) -> None:
    scale = 8 if small else 1
    rows: list[tuple[str, float]] = []
    core = make.core(3, 1.0, "multiply")
    ours, changed = make.ours(3, strengths=STRENGTHS), make.ours(3, strengths=STRENGTHS[::-1])
    for name, build in (("core, plain Redux", core), ("ours, strength", ours)):
        width, height = (side // scale for side in SIZES[name.split(",")[0]])
        rows.append((f"{name}: first picture of a size", seconds(model, build, width, height)))
        rows.append((f"{name}: the next", seconds(model, build, width, height)))
        if name.startswith("ours"):
            rows.append((f"{name}: after a changed strength", seconds(model, changed, width, height)))
    width, height = (side // scale for side in SIZES["easy"])
    for name, build in (("core, plain Redux", core), ("ours, strength", ours)):
        seconds(model, build, width, height, steps=2)
        rows.append((f"{name}: without EasyCache", seconds(model, build, width, height)))
        cached = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]
        rows.append((f"{name}: with EasyCache", seconds(cached, build, width, height)))
    print(f"\nWhole pictures, 3 references, {STEPS} steps\n\n| case | s |\n|---|---|")
    for label, value in rows:
        print(f"| {label} | {value:.2f} |")


def seconds(model: Any, conditioning: list, width: int, height: int, steps: int = STEPS) -> float:
    import comfy.sample
    import comfy.samplers

    latent = torch.zeros(1, 16, height // 8, width // 8)
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    wait: Callable[[], object] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    with torch.inference_mode():
        wait()
        start = time.perf_counter()
        comfy.sample.sample_custom(
            model, torch.randn(latent.shape), 1.0, sampler, sigmas, conditioning, conditioning, latent,
            disable_pbar=True, seed=0,
        )  # fmt: skip
        wait()
    return time.perf_counter() - start
