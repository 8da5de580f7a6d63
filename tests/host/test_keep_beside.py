"""Kept references beside what changes model calls: step caches, areas, context windows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
import pytest
import torch
from redux_scene import count_calls, relative

TEXT = 8


def keep(scene: Any, conditioning: list, quality: str = "close") -> list:
    return scene.nodes["ReduxKeep"].execute(conditioning, quality).args[0]


def halves() -> torch.Tensor:
    region = torch.zeros(1, 32, 32)
    region[:, :, 16:] = 1
    return region


def leaving_out(scene: Any, all_of_it: bool, calls: Callable[[int], bool]) -> tuple[Any, list[int]]:
    """A model that in these calls leaves out all blocks, or all but the first; and how long its contexts were."""
    model, lengths, last = scene.flux.clone(), [], []

    def wrapper(executor: Any, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, *args: Any, **keys: Any) -> Any:
        lengths.append(context.shape[1])
        if not (all_of_it and calls(len(lengths) - 1)):
            last[:] = [executor(x, t, context, *args, **keys)]
        return last[0]

    def single(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        skips = not all_of_it and calls(len(lengths) - 1)
        return {"img": args["img"]} if skips else extra["original_block"](args)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "cache", wrapper)
    for index in range(2):
        model.set_model_patch_replace(single, "dit", "single_block", index)
    return model, lengths


@pytest.mark.parametrize("all_of_it", [True, False])
def test_a_step_cache_that_leaves_out_a_full_step(
    scene: Any, all_of_it: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The next step is full in its place, and keeping goes on."""
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    exact = scene.sample(applied, leaving_out(scene, all_of_it, lambda call: call == 4)[0], steps=10)
    model, lengths = leaving_out(scene, all_of_it, lambda call: call == 4)
    with caplog.at_level(logging.INFO):
        close = scene.sample(keep(scene, applied), model, steps=10)
    assert [step for step, length in enumerate(lengths) if length > TEXT] == [0, 1, 2, 4, 5, 8]
    assert 0 < relative(close, exact) < 0.2 * relative(scene.sample(applied, steps=10, seed=1), exact)
    assert not any("not kept" in line for line in caplog.messages)


def test_blocks_that_are_never_seen_are_not_kept(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    exact = scene.sample(applied, leaving_out(scene, False, lambda _: True)[0], steps=4)
    with caplog.at_level(logging.INFO):
        found = scene.sample(keep(scene, applied), leaving_out(scene, False, lambda _: True)[0], steps=4)
    assert torch.equal(found, exact) and any("only 1 of the model's 3 blocks" in line for line in caplog.messages)


def areas(scene: Any, conditioning: list) -> list:
    """The left and the right half, as two entries."""
    node = scene.comfy.nodes.ConditioningSetArea()
    return [entry for x in (0, 64) for entry in node.append(conditioning, 64, 128, x, 0, 1.0)[0]]


def windows(model: Any) -> Any:
    """Core's ContextWindowsManual: the upper and the lower half of the picture."""
    nodes = pytest.importorskip("comfy_extras.nodes_context_windows")
    options = {"context_schedule": "standard_static", "context_stride": 1, "closed_loop": False, "freenoise": False}
    keys = {"context_length": 8, "context_overlap": 0, "fuse_method": "flat", "dim": 2, **options}
    return nodes.ContextWindowsManualNode.execute(model, **keys).args[0]


@pytest.mark.parametrize("parts", ["areas", "windows"])
def test_each_part_of_the_picture_has_its_own(scene: Any, parts: str, caplog: pytest.LogCaptureFixture) -> None:
    """A region that acts in one of them only."""
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6, region=halves())
    patch = windows if parts == "windows" else lambda model: model
    entries = (lambda one: areas(scene, one)) if parts == "areas" else lambda one: one
    exact = scene.sample(entries(applied), patch(scene.flux), steps=10)
    model, calls = count_calls(patch(scene.flux))
    with caplog.at_level(logging.INFO):
        close = scene.sample(entries(keep(scene, applied)), model, steps=10)
    other = scene.sample(entries(applied), patch(scene.flux), steps=10, seed=1)
    lengths = [call["context"].shape[1] for call in calls]
    assert sum(length == TEXT for length in lengths) == len(lengths) // 2, "full at steps 1, 2, 3, 5, 9 of 10"
    assert 0 < relative(close, exact) < 0.2 * relative(other, exact)
    assert not any("not kept" in line for line in caplog.messages)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_guidance_that_asks_for_the_same_latent_again(scene: Any, cfg: float, caplog: pytest.LogCaptureFixture) -> None:
    """In the first step too, where another latent would be a tile; each step has two calls of it."""
    nodes_pag = pytest.importorskip("comfy_extras.nodes_pag")
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    guided = nodes_pag.PerturbedAttentionGuidance.execute(scene.flux, 3.0).args[0]
    exact = scene.sample(applied, guided, steps=10, cfg=cfg)
    model, calls = count_calls(guided)
    with caplog.at_level(logging.INFO):
        close = scene.sample(keep(scene, applied), model, steps=10, cfg=cfg)
    sigmas = list(dict.fromkeys(call["sigma"] for call in calls))
    full = [sigmas.index(call["sigma"]) for call in calls if call["context"].shape[1] > TEXT]
    assert full == [0, 0, 1, 2, 4, 8] and not any("not kept" in line for line in caplog.messages)
    assert 0 < relative(close, exact) < 0.2 * relative(scene.sample(applied, guided, steps=10, cfg=cfg, seed=1), exact)
