"""When a reference acts: against samplings in stages, dense biases for each step, and the context the network gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from redux_scene import count_calls, make_bias, relative

STEPS = 4  # of the simple scheduler: at 0, 1/4, 1/2 and 3/4 of the denoising

CURVES = {
    "constant": [1, 1, 1, 1],
    "linear up": [0, 1 / 4, 1 / 2, 3 / 4],
    "linear down": [1, 3 / 4, 1 / 2, 1 / 4],
    "ease in": [0, 1 / 16, 1 / 4, 9 / 16],
    "ease out": [1, 15 / 16, 3 / 4, 7 / 16],
    "ease in-out": [0, 5 / 32, 1 / 2, 27 / 32],
}


def dense_steps(scene: Any, tokens: Any, weights: list[float]) -> torch.Tensor:
    """A sampling in which the reference has another weight at each step."""
    count = tokens.tokens.shape[1]
    sigmas: list[float] = []

    def bias(options: dict[str, Any], _: int) -> torch.Tensor:
        sigma = float(options["sigmas"][0])
        if sigma not in sigmas:
            sigmas.append(sigma)
        return make_bias(count + 8 + 64, [(0, count, weights[sigmas.index(sigma)])], count)

    return scene.dense(bias, tokens, steps=STEPS)


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_is_a_dense_bias_of_each_step(scene: Any, curve: str) -> None:
    tokens = scene.tokens()
    mine = scene.sample(scene.apply(scene.text, tokens, strength=0.7, curve=curve), steps=STEPS)
    dense = dense_steps(scene, tokens, [0.7 * factor for factor in CURVES[curve]])
    assert relative(mine, dense) < 1e-5


def test_a_curve_runs_between_start_and_end(scene: Any) -> None:
    tokens = scene.tokens()
    conditioning = scene.apply(scene.text, tokens, start_percent=0.25, end_percent=0.75, curve="linear down")
    assert relative(scene.sample(conditioning, steps=STEPS), dense_steps(scene, tokens, [0, 1, 0.5, 0])) < 1e-5


def test_start_and_end_are_a_sampling_in_stages(scene: Any) -> None:
    tokens = scene.tokens()
    mine = scene.sample(scene.apply(scene.text, tokens, strength=0.5, end_percent=0.5), steps=STEPS)
    node, latent = scene.comfy.nodes.KSamplerAdvanced(), scene.comfy.empty_latent()
    for conditioning, noise, start, stop in (
        (scene.apply(scene.text, tokens, strength=0.5), "enable", 0, 2),
        (scene.text, "disable", 2, STEPS),
    ):
        options = ("euler", "simple", conditioning, scene.text, latent, start, stop, "enable")
        latent = node.sample(scene.flux, noise, 0, STEPS, 1.0, *options)[0]
    assert relative(mine, latent["samples"]) < 1e-5


@pytest.mark.parametrize("boundary", [0.25, 0.5, 0.333])
def test_references_that_meet_never_act_together(scene: Any, boundary: float) -> None:
    """The context holds the text and the tokens of one reference: what does not act costs nothing."""
    first, second = scene.tokens(1, rows=2), scene.tokens(2, rows=3)
    model, calls = count_calls(scene.flux)
    conditioning = scene.apply(scene.text, first, strength=0.5, end_percent=boundary)
    conditioning = scene.apply(conditioning, second, strength=0.5, start_percent=boundary)
    scene.sample(conditioning, model, steps=STEPS)
    expected = [8 if step / STEPS < boundary else 12 for step in range(STEPS)]
    assert [call["context"].shape[1] - 8 for call in calls] == expected
    assert torch.equal(calls[0]["context"][:, :8], first.tokens)
    assert torch.equal(calls[-1]["context"][:, :12], second.tokens)


@pytest.mark.parametrize(("sampler", "scheduler"), [("heun", "normal"), ("dpmpp_2m", "beta"), ("euler", "sgm_uniform")])
def test_other_samplers_and_schedulers_meet_the_same_boundary(scene: Any, sampler: str, scheduler: str) -> None:
    """ComfyUI's own timestep range on a copy of the text says which calls lie before the boundary."""
    model, calls = count_calls(scene.flux)
    sampling = scene.flux.get_model_object("model_sampling")
    conditioning = scene.apply(scene.text, scene.tokens(), strength=0.5, end_percent=0.5)
    scene.sample(conditioning, model, steps=5, sampler=sampler, scheduler=scheduler)
    assert {call["context"].shape[1] for call in calls} == {8, 24}
    for call in calls:
        before = call["sigma"] > sampling.percent_to_sigma(0.5) * (1 + 1e-6)
        assert call["context"].shape[1] == (24 if before else 8)


def test_the_timestep_range_of_comfyui_goes_with_it(scene: Any) -> None:
    """Core's range says when the conditioning is used, ours when the reference acts in it."""
    tokens = scene.tokens()
    model, calls = count_calls(scene.flux)
    set_range = scene.comfy.nodes.ConditioningSetTimestepRange().set_range
    early = set_range(scene.apply(scene.text, tokens, strength=0.5, end_percent=0.25), 0.0, 0.45)[0]
    scene.sample(early + set_range(scene.text, 0.45, 1.0)[0], model, steps=STEPS)
    assert [call["context"].shape[1] for call in calls] == [24, 8, 8, 8]
    assert torch.equal(calls[1]["context"], calls[2]["context"])


def test_img2img_starts_late_in_the_schedule(scene: Any) -> None:
    """With a denoise of 0.5 the sampling begins in the middle: what ended before never acts."""
    model, calls = count_calls(scene.flux)
    conditioning = scene.apply(scene.text, scene.tokens(), strength=0.5, end_percent=0.5)
    latent = {"samples": torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(5))}
    node = scene.comfy.nodes.KSampler()
    node.sample(model, 0, 2, 1.0, "euler", "simple", conditioning, scene.text, latent, denoise=0.5)
    assert [call["context"].shape[1] for call in calls] == [8, 8]
