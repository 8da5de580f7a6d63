"""Weigh Reference Latents: Kontext's pictures with a strength, a region and a time, against dense attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kontext_scene import (
    IMAGE,
    SIZES,
    TEXT,
    amounts_of,
    attend_by,
    dense_model,
    latent,
    mask,
    regional,
    weigh,
    with_pictures,
)
from redux_scene import relative
from torch import Tensor

METHODS = (None, "offset", "index", "uxo/uno")


@pytest.mark.parametrize("response", ["even", "weight"])
@pytest.mark.parametrize("method", METHODS)
def test_two_pictures_two_strengths(scene: Any, response: str, method: str | None) -> None:
    base = with_pictures(scene.text, method=method)
    mine = weigh(scene, weigh(scene, base, 1, 0.3, response=response), 2, 0.7, response=response)
    dense = scene.sample(base, dense_model(scene, attend_by(amounts_of(0.3, 0.7), response)))
    assert relative(scene.sample(mine), dense) < 1e-5
    assert relative(dense, scene.sample(base)) > 1e-3


@pytest.mark.parametrize(("picture", "amounts"), [(0, (0.4, 0.4)), (1, (0.4, 1.0)), (2, (1.0, 0.4))])
def test_which_picture(scene: Any, picture: int, amounts: tuple[float, float]) -> None:
    base = with_pictures(scene.text)
    dense = scene.sample(base, dense_model(scene, attend_by(amounts_of(*amounts), "weight")))
    assert relative(scene.sample(weigh(scene, base, picture, 0.4, response="weight")), dense) < 1e-5


def test_above_one_both_responses_are_the_weight(scene: Any) -> None:
    base = with_pictures(scene.text)
    dense = scene.sample(base, dense_model(scene, attend_by(amounts_of(2.0, 2.0), "weight")))
    for response in ("even", "weight"):
        assert relative(scene.sample(weigh(scene, base, strength=2.0, response=response)), dense) < 1e-5


def test_the_ends_are_bit_for_bit(scene: Any) -> None:
    base, zeros = with_pictures(scene.text), torch.zeros(1, 4, 4)
    without, plain = scene.sample(scene.text), scene.sample(base)
    assert torch.equal(scene.sample(weigh(scene, base, strength=1.0)), plain)
    assert torch.equal(scene.sample(weigh(scene, base, strength=0.0)), without)
    assert torch.equal(scene.sample(weigh(scene, base, region=zeros)), without)
    first = scene.sample(with_pictures(scene.text, SIZES[:1]))
    assert torch.equal(scene.sample(weigh(scene, base, 2, 0.0)), first)


@pytest.mark.parametrize("response", ["even", "weight"])
def test_zero_before_another_picture_is_unread_by_all(scene: Any, response: str) -> None:
    """The other picture keeps its place, and passes nothing of it on: what the first shows does not matter."""
    base = with_pictures(scene.text)
    other = [[base[0][0], {**base[0][1], "reference_latents": [latent(9, SIZES[0]), latent(1, SIZES[1])]}]]
    results = [scene.sample(weigh(scene, one, 1, 0.0, response=response)) for one in (base, other)]
    assert relative(scene.sample(base), scene.sample(other)) > 1e-3
    assert relative(*results) < 1e-6
    dense = scene.sample(base, dense_model(scene, attend_by(amounts_of(0.0, 1.0), "weight")))
    assert relative(results[0], dense) < 1e-5


@pytest.mark.parametrize("response", ["even", "weight"])
def test_a_region_for_each_image(scene: Any, response: str) -> None:
    base, latents = with_pictures(scene.text), scene.comfy.empty_latent(batch=2)
    mine = weigh(scene, weigh(scene, base, 1, 0.8, region=mask(2), response=response), 2, 0.5, response=response)
    attend = attend_by(amounts_of(regional(0.8, mask(2)), 0.5), response)
    dense = scene.sample(base, dense_model(scene, attend), latent=latents)
    assert relative(scene.sample(mine, latent=latents), dense) < 1e-5


def test_the_mask_of_a_picture_without_alpha_is_no_region(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at Apply Redux: what Load Image gives then does not take the picture away."""
    said: list[str] = []
    monkeypatch.setattr(scene.pack.nodes.host.mask, "note_on_node", said.append)
    base = with_pictures(scene.text)
    plain = scene.sample(weigh(scene, base, strength=0.4))
    assert torch.equal(scene.sample(weigh(scene, base, strength=0.4, region=torch.zeros(1, 64, 64))), plain)
    assert len(said) == 1 and said[0].startswith("The region is black")


def test_its_time(scene: Any) -> None:
    """Outside of it the picture is not in the sequence; inside, the curve is followed."""
    base = with_pictures(scene.text, SIZES[:1])
    mine = weigh(scene, base, strength=0.8, start_percent=0.35, end_percent=0.65, response="weight")
    rest = scene.comfy.nodes.ConditioningSetTimestepRange().set_range
    parts = rest(scene.text, 0.0, 0.35)[0] + rest(base, 0.35, 0.65)[0] + rest(scene.text, 0.65, 1.0)[0]
    inside = attend_by(amounts_of(0.8), "weight")

    def attend(func: Any, q: Tensor, k: Tensor, *args: Any, **options: Any) -> Tensor:
        return (attend_by([], "weight") if k.shape[2] == TEXT + IMAGE else inside)(func, q, k, *args, **options)

    dense = scene.sample(parts, dense_model(scene, attend), steps=10)
    assert relative(scene.sample(mine, steps=10), dense) < 1e-5
    down = weigh(scene, base, curve="linear down", response="weight")

    def falling(func: Any, *qkv: Any, **options: Any) -> Tensor:
        sigma = float(options["transformer_options"]["sigmas"][0])
        return attend_by(amounts_of(percent_left(scene, sigma)), "weight")(func, *qkv, **options)

    assert relative(scene.sample(down, steps=4), scene.sample(base, dense_model(scene, falling), steps=4)) < 1e-5


def percent_left(scene: Any, sigma: float) -> float:
    """1 - percent, by looking for the percent that has this noise level."""
    to_sigma = scene.flux.get_model_object("model_sampling").percent_to_sigma
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float(to_sigma(middle)) > sigma else (low, middle)
    return 1 - high


def test_the_last_one_that_means_a_picture_counts(scene: Any) -> None:
    base = with_pictures(scene.text)
    mine = weigh(scene, weigh(scene, base, 0, 0.4), 1, 1.0)
    assert torch.equal(scene.sample(mine), scene.sample(weigh(scene, base, 2, 0.4)))
    assert torch.equal(scene.sample(weigh(scene, mine, 0, 1.0)), scene.sample(base))


def test_entries_without_pictures_stay_as_they_are(scene: Any) -> None:
    both = with_pictures(scene.text) + scene.comfy.conditioning(seed=3)
    mine = weigh(scene, both, 1, 0.5)
    assert mine[1][1] is both[1][1] and mine[0][1] is not both[0][1] and "model_conds" not in both[0][1]


WRONG = {
    "no picture": ({}, "has no reference latent to weigh; put Set Reference Latent before"),
    "index": ({"picture": 3}, "no reference latent 3 in the conditioning, which has 2; 0 means all"),
    "NaN": ({"strength": float("nan")}, "The strength is nan; a number from 0 up"),
    "below 0": ({"strength": -1.0}, "The strength is -1; a number from 0 up"),
    "region": ({"region": torch.full((1, 4, 4), torch.nan)}, "has 16 values that are NaN or infinite"),
    "time": ({"start_percent": 0.6, "end_percent": 0.2}, "acts from 0.6 to 0.2"),
    "response": ({"response": "odd"}, "There is no response 'odd'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_sentence(scene: Any, case: str) -> None:
    options, words = WRONG[case]
    conditioning = scene.text if case == "no picture" else with_pictures(scene.text)
    with pytest.raises(ValueError, match=words) as caught:
        weigh(scene, conditioning, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("strength", [float("nan"), -0.5, 11.0])
def test_a_number_is_refused_before_anything_runs(scene: Any, strength: float) -> None:
    node = scene.nodes["ReduxWeighLatents"]
    assert node.validate_inputs(strength=strength).startswith("The strength is ")
    assert node.validate_inputs() is True and node.validate_inputs(strength=None) is True
    assert "0.6 to 0.2" in node.validate_inputs(start_percent=0.6, end_percent=0.2)
    for kind in ("ReduxWeighLatents", "ReduxApply", "ReduxSweep"):  # no number: named by ComfyUI itself
        assert scene.nodes[kind].validate_inputs(strength="much") is True
        assert scene.nodes[kind].validate_inputs(end_percent="late") is True
