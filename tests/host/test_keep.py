"""Kept references through real samplings: the right steps are full, a kept step is exact where it can be, and what
keeping cannot follow is sampled exactly, with one line."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from redux_scene import count_calls, queue_with, relative

TOKENS, TEXT = 16, 8


def keep(scene: Any, conditioning: list, quality: str = "close") -> list:
    return scene.nodes["ReduxKeep"].execute(conditioning, quality).args[0]


def halves() -> torch.Tensor:
    region = torch.zeros(1, 32, 32)
    region[:, :, 16:] = 1
    return region


def contexts(calls: list[dict[str, Any]]) -> list[int]:
    return [call["context"].shape[1] for call in calls]


def full(calls: list[dict[str, Any]], text: int = TEXT) -> list[int]:
    return [step for step, length in enumerate(contexts(calls)) if length > text]


def test_the_first_steps_are_full_and_the_picture_is_close(scene: Any) -> None:
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    model, calls = count_calls(scene.flux)
    exact = scene.sample(applied, steps=10)
    close = scene.sample(keep(scene, applied), model, steps=10)
    assert full(calls) == [0, 1, 2, 4, 8]
    other = scene.sample(applied, steps=10, seed=1)
    assert 0 < relative(close, exact) < 0.2 * relative(other, exact)


@pytest.mark.parametrize(("quality", "steps"), [("fast", [0, 1, 4]), ("exact", list(range(10)))])
def test_other_qualities(scene: Any, quality: str, steps: list[int]) -> None:
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    model, calls = count_calls(scene.flux)
    found = scene.sample(keep(scene, applied, quality), model, steps=10)
    assert full(calls) == steps
    if quality == "exact":
        assert torch.equal(found, scene.sample(applied, steps=10))


def twice(conditioning: list, scene: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor, list]:
    """What the model says at the second step, full, and once more at the same step and latent, kept."""
    said: list[torch.Tensor] = []

    def function(model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, **_: Any) -> torch.Tensor:
        ones = x.new_ones(len(x))
        model(x, sigmas[0] * ones, **extra_args)
        said.append(model(x, sigmas[1] * ones, **extra_args))
        said.append(model(x, sigmas[1] * ones, **extra_args))
        return x

    model, calls = count_calls(options.pop("model", scene.flux))
    cfg, batch = options.pop("cfg", 1.0), options.pop("batch", 1)
    negative = options.pop("negative", None) or scene.comfy.conditioning(seed=99)
    latent = scene.comfy.empty_latent(batch=batch)["samples"]
    noise = comfy.sample.prepare_noise(latent, 5)
    sigmas = torch.linspace(1, 0, 6)
    sampler = comfy.samplers.KSAMPLER(function)
    comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, conditioning, negative, latent)
    return said[0], said[1], calls


def two_references(scene: Any) -> list:
    once = scene.apply(scene.text, scene.tokens(), strength=0.4, region=halves())
    return scene.apply(once, scene.tokens(seed=8, rows=2), strength=1.5, blocks="double:0=0.5, single:1=0")


CASES = {
    "strength": lambda scene: scene.apply(scene.text, scene.tokens(), strength=0.3),
    "plain": lambda scene: scene.apply(scene.text, scene.tokens()),
    "region": lambda scene: scene.apply(scene.text, scene.tokens(), region=halves()),
    "two references": two_references,
    "per image": lambda scene: scene.apply(scene.text, scene.tokens(pictures=2), batch="per image", strength=0.7),
    "masked": lambda scene: scene.apply(scene.text, scene.tokens(coverage=torch.eye(16)[:1].cumsum(1)), strength=0.5),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_kept_step_whose_store_is_of_this_step_is_the_full_step(scene: Any, case: str, cfg: float) -> None:
    said, again, calls = twice(keep(scene, CASES[case](scene)), scene, cfg=cfg, batch=2)
    assert max(contexts(calls)) > TEXT and min(contexts(calls)[-1:]) == TEXT, "the last call is a kept one"
    torch.testing.assert_close(again, said, atol=1e-5, rtol=1e-5)


def test_both_sides_of_cfg_keep_their_own(scene: Any) -> None:
    positive = keep(scene, scene.apply(scene.text, scene.tokens(), strength=0.5))
    negative = keep(scene, scene.apply(scene.comfy.conditioning(seed=3), scene.tokens(seed=9), strength=0.5))
    said, again, calls = twice(positive, scene, cfg=3.0, negative=negative)
    assert {call["batch"] for call in calls} == {2}, "equal references share a call"
    torch.testing.assert_close(again, said, atol=1e-5, rtol=1e-5)


def test_a_reference_that_begins_later_is_full_then(scene: Any) -> None:
    late = scene.apply(scene.text, scene.tokens(rows=2), start_percent=0.5)
    both = keep(scene, scene.apply(late, scene.tokens(seed=8)))
    model, calls = count_calls(scene.flux)
    scene.sample(both, model, steps=10)
    lengths = contexts(calls)
    first = next(step for step, length in enumerate(lengths) if length == TEXT + 8 + TOKENS)
    assert first >= 3 and lengths[0] == TEXT + TOKENS and TEXT in lengths[3:first]


def test_samplers_of_second_order_and_with_noise(scene: Any) -> None:
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    for sampler in ("heun", "euler_ancestral", "dpmpp_2m", "dpmpp_sde"):
        model, calls = count_calls(scene.flux)
        exact = scene.sample(applied, steps=8, sampler=sampler)
        close = scene.sample(keep(scene, applied), model, steps=8, sampler=sampler)
        other = scene.sample(applied, steps=8, sampler=sampler, seed=1)
        assert len(full(calls)) <= 0.65 * len(calls)
        assert relative(close, exact) < 0.35 * relative(other, exact), sampler


def test_the_next_sampling_begins_anew(scene: Any) -> None:
    kept = keep(scene, scene.apply(scene.text, scene.tokens(), strength=0.6))
    first = scene.sample(kept, steps=6)
    small = scene.sample(kept, steps=6, latent=scene.comfy.empty_latent(64, 96))
    assert torch.equal(scene.sample(kept, steps=6), first) and small.shape[-2:] == (8, 12)


def test_tiles_are_sampled_exactly_and_said(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A stand-in for tiled samplers: each step calls the model for the left and the right half of the latent."""
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)

    def function(model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any = None, **_: Any) -> torch.Tensor:
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            parts = [model(part, sigma * x.new_ones(len(x)), **extra_args) for part in x.chunk(2, dim=-1)]
            x = x + (x - torch.cat(parts, dim=-1)) / sigma * (following - sigma)
        return x

    def sample(conditioning: list, model: Any) -> torch.Tensor:
        latent = scene.comfy.empty_latent()["samples"]
        noise = comfy.sample.prepare_noise(latent, 5)
        sampler = comfy.samplers.KSAMPLER(function)
        negative = scene.comfy.conditioning(seed=99)
        sigmas = torch.linspace(1, 0, 6)
        return comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, conditioning, negative, latent)

    exact = sample(applied, scene.flux)
    model, calls = count_calls(scene.flux)
    with caplog.at_level(logging.INFO):
        found = sample(keep(scene, applied), model)
    assert min(contexts(calls)) > TEXT and torch.equal(found, exact)
    assert len([line for line in caplog.messages if "not kept" in line]) == 1


def test_no_room_is_half_the_memory_then_none(
    scene: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    exact, kept = scene.sample(applied, steps=6), keep(scene, applied)
    whole = scene.sample(kept, steps=6)
    needed = 2 * 3 * TOKENS * scene.comfy.sizes.hidden * 4  # keys and values in three blocks, fp32
    free = SimpleNamespace(get_free_memory=lambda *_: 0.7 * needed)
    monkeypatch.setattr("redux_control.nodes.host.keep.memory", free)  # ComfyUI itself goes on counting
    half = scene.sample(kept, steps=6)
    assert not torch.equal(half, whole) and relative(half, whole) < 0.02
    free.get_free_memory = lambda *_: 0.2 * needed
    with caplog.at_level(logging.INFO):
        assert torch.equal(scene.sample(kept, steps=6), exact)
    assert any("not kept" in line and "MB" in line for line in caplog.messages)


def test_comfyui_is_told_what_is_needed(scene: Any) -> None:
    applied = scene.apply(scene.text, scene.tokens())
    ((_, plain),), ((_, kept),) = applied, keep(scene, applied)
    assert plain["control"].inference_memory_requirements(torch.bfloat16) == 0
    assert kept["control"].inference_memory_requirements(torch.bfloat16) == 57 * 2 * TOKENS * 3072 * 2


def test_the_influence_map_counts_kept_steps(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "server", queue_with("ReduxInfluence"))
    applied = scene.apply(scene.text, scene.tokens(), strength=0.6)
    found = []
    for conditioning in (applied, keep(scene, applied)):
        scene.sample(conditioning, steps=10)
        from redux_control.nodes.influence import recorded

        found.append(recorded(conditioning)[0].maps_BSyx)
    assert found[0].shape == found[1].shape and relative(found[1], found[0]) < 0.05


def test_a_kept_conditioning_is_saved_and_loaded(scene: Any, tmp_path: Any) -> None:
    from redux_control.nodes.host.conditioning_store import load_conditioning, save_conditioning

    kept = keep(scene, scene.apply(scene.text, scene.tokens(), strength=0.6), "fast")
    save_conditioning(kept, tmp_path / "kept.safetensors")
    loaded = load_conditioning(tmp_path / "kept.safetensors")
    assert torch.equal(scene.sample(loaded, steps=6), scene.sample(kept, steps=6))


def test_a_reference_applied_behind_it_is_kept_too(scene: Any) -> None:
    both = scene.apply(keep(scene, scene.apply(scene.text, scene.tokens())), scene.tokens(seed=8), strength=0.5)
    model, calls = count_calls(scene.flux)
    scene.sample(both, model, steps=6)
    assert full(calls) == [0, 1, 2, 4]


def test_without_a_reference_nothing_changes(scene: Any) -> None:
    assert keep(scene, scene.text)[0][0] is scene.text[0][0]
    assert torch.equal(scene.sample(keep(scene, scene.text)), scene.sample(scene.text))


def test_an_unknown_quality_is_one_sentence(scene: Any) -> None:
    with pytest.raises(ValueError, match="no quality 'best'; choose one of exact, close, fast, automatic"):
        keep(scene, scene.apply(scene.text, scene.tokens()), "best")
