"""A sweep: each image of the batch is the picture of a sampling with its value alone."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from redux_scene import relative

VALUES = (0.0, 0.1, 0.4, 1.0, 2.5)
STEPS = 4


def sweep(scene: Any, conditioning: list, tokens: Any, latent: dict, values: Any, **options: Any) -> tuple:
    text = ", ".join(f"{value:g}" for value in values)
    return scene.nodes["ReduxSweep"].execute(conditioning, tokens, latent, text, **options).args


@pytest.mark.parametrize("response", ["even", "weight"])
@pytest.mark.parametrize("region", [None, "one", "masks"])
def test_each_image_is_a_single_run_at_its_strength(scene: Any, response: str, region: str | None) -> None:
    tokens, options = scene.tokens(rows=3), {"response": response, "blocks": "double:=0.5, single:0.h1-5=0"}
    if region is not None:
        options["region"] = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(3))
    conditioning = scene.apply(scene.text, scene.tokens(2), strength=0.6)  # another reference stays what it is
    swept, latent, labels = sweep(scene, conditioning, tokens, scene.comfy.empty_latent(), VALUES, **options)
    if region == "masks":  # with the prompt and a negative in one call
        negative = scene.comfy.nodes.ConditioningZeroOut().zero_out(swept)[0]
        mine = scene.sample(swept, latent=latent, negative=negative, cfg=2.0)
    else:
        negative, mine = None, scene.sample(swept, latent=latent)
    assert labels.split("\n") == [f"strength {value:g}" for value in VALUES]
    singles = []
    for value in VALUES:
        single = scene.apply(conditioning, tokens, strength=value, **options)
        if negative is None:
            singles.append(scene.sample(single)[0])
        else:
            zeroed = scene.comfy.nodes.ConditioningZeroOut().zero_out(single)[0]
            singles.append(scene.sample(single, negative=zeroed, cfg=2.0)[0])
    for image, single in zip(mine, singles, strict=True):
        assert relative(image, single) < 1e-5
    assert all(relative(one, other) > 1e-3 for one, other in zip(singles, singles[1:], strict=False))


def test_each_image_is_a_single_run_with_its_end(scene: Any) -> None:
    ends, options = (0.25, 0.5, 0.9, 1.0), {"strength": 0.7, "start_percent": 0.1, "curve": "linear up"}
    tokens, latent = scene.tokens(), scene.comfy.empty_latent()
    options["response"] = "even"
    swept, repeated, labels = sweep(scene, scene.text, tokens, latent, ends, what="end_percent", **options)
    mine = scene.sample(swept, latent=repeated, steps=STEPS)
    assert labels.split("\n")[1] == "end_percent 0.5"
    singles = [scene.sample(scene.apply(scene.text, tokens, end_percent=end, **options), steps=STEPS) for end in ends]
    assert max(relative(image, single[0]) for image, single in zip(mine, singles, strict=True)) < 1e-5
    assert relative(singles[0], singles[1]) > 1e-3


def test_a_batch_is_swept_whole(scene: Any) -> None:
    """Two noises, a picture and a mask of the region for each: value by value the batch as it is alone."""
    tokens, values = scene.tokens(pictures=2), (0.2, 0.8)
    options = {"batch": "per image", "region": torch.rand(2, 9, 9), "response": "even"}
    latent = scene.comfy.empty_latent(batch=2) | {"noise_mask": torch.rand(2, 128, 128).round()}
    swept, repeated, labels = sweep(scene, scene.text, tokens, latent, values, **options)
    assert repeated["batch_index"] == [0, 1, 0, 1] and "batch_index" not in latent
    assert labels.split("\n") == ["strength 0.2"] * 2 + ["strength 0.8"] * 2
    mine = scene.sample(swept, latent=repeated)
    for index, value in enumerate(values):
        single = scene.sample(scene.apply(scene.text, tokens, strength=value, **options), latent=latent)
        assert relative(mine[2 * index : 2 * index + 2], single) < 1e-5


def test_later_images_of_a_batch_keep_their_noise(scene: Any) -> None:
    second = scene.comfy.nodes.LatentFromBatch().frombatch(scene.comfy.empty_latent(batch=2), 1, 1)[0]
    swept, repeated, _ = sweep(scene, scene.text, scene.tokens(), second, (0.3, 0.6))
    single = scene.sample(scene.apply(scene.text, scene.tokens(), strength=0.6, response="even"), latent=second)
    assert repeated["batch_index"] == [1, 1]
    assert relative(scene.sample(swept, latent=repeated)[1], single[0]) < 1e-5


def test_a_sweep_of_nothing_is_the_text(scene: Any) -> None:
    swept, latent, _ = sweep(scene, scene.text, scene.tokens(), scene.comfy.empty_latent(), (0, 0))
    assert swept is scene.text and len(latent["samples"]) == 2


def test_a_saved_sweep_is_the_same(scene: Any, tmp_path: Any) -> None:
    store = sys.modules["redux_control.nodes.host.conditioning_store"]
    swept, latent, _ = sweep(scene, scene.text, scene.tokens(), scene.comfy.empty_latent(), (0.3, 0.6))
    store.save_conditioning(swept, tmp_path / "sweep.safetensors")
    loaded = store.load_conditioning(tmp_path / "sweep.safetensors")
    assert torch.equal(scene.sample(loaded, latent=latent), scene.sample(swept, latent=latent))


@pytest.mark.parametrize(
    ("values", "what", "sentence"),
    [
        ("", "strength", "The sweep has no values; write 1 to 16 numbers, e.g. 0.1, 0.3, 1."),
        ("0.1, half, 1", "strength", "The value 'half' of the sweep is no number; write e.g. 0.1, 0.3, 1."),
        ("nan", "strength", "The value 'nan' of the sweep is no number; write e.g. 0.1, 0.3, 1."),
        ("1 " * 17, "strength", "The sweep has 17 values; 1 to 16 are needed."),
        ("-0.5", "strength", "The sweep has the strength -0.5; 0 to 10 is needed."),
        ("11", "strength", "The sweep has the strength 11; 0 to 10 is needed."),
        ("0.5, 0", "end_percent", "The reference acts from 0 to 0; 0 <= start < end <= 1 is needed."),
        ("0.5", "foo", "A sweep of 'foo' is not known; choose strength or end_percent as what."),
        ("1_0", "strength", "The value '1_0' of the sweep is no number; write e.g. 0.1, 0.3, 1."),
        ("1.5", "end_percent", "The reference acts from 0 to 1.5; 0 <= start < end <= 1 is needed."),
    ],
)
def test_bad_values_are_refused_before_anything_runs(scene: Any, values: str, what: str, sentence: str) -> None:
    node = scene.nodes["ReduxSweep"]
    assert node.validate_inputs(values=values, what=what) == sentence
    with pytest.raises(ValueError) as caught:  # what comes from a wire
        node.execute(scene.text, scene.tokens(), scene.comfy.empty_latent(), values, what)
    assert str(caught.value) == sentence


def test_good_values_pass(scene: Any) -> None:
    node = scene.nodes["ReduxSweep"]
    assert node.validate_inputs(values="0;1\n2 10", what="strength") is True
    assert node.validate_inputs(values="0.2", what="end_percent", start_percent=0.1) is True
    assert node.validate_inputs(values=None, what=None, start_percent=None) is True


def test_the_sheet_shows_every_picture(scene: Any) -> None:
    node = scene.nodes["ReduxSweepSheet"]
    images = torch.stack([torch.full((64, 64, 3), level) for level in (0.3, 0.5, 0.7, 0.9)])
    output = node.execute(images, "a\nb\nc\nd", 2)
    (sheet,) = output.args[0]
    assert sheet.shape == (2 * (64 + 24) + 12, 2 * (64 + 12) + 12, 3) and output.ui is not None
    for index, level in enumerate((0.3, 0.5, 0.7, 0.9)):
        row, column = divmod(index, 2)
        top, left = 12 + row * 88, 12 + column * 76
        assert (sheet[top : top + 64, left : left + 64] - level).abs().max() < 1 / 255
        assert sheet[top + 64 : top + 88, left : left + 64].max() > 0.6, "the label"
    with pytest.raises(ValueError, match="There are 4 pictures and 2 labels"):
        node.execute(images, "a\nb")
    assert node.execute(images).args[0].shape[0] == 1
