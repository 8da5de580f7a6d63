"""Several pictures in a reference and several images in a latent: joint, and one picture for each image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.samplers
import pytest
import torch
from redux_scene import count_calls, relative

COUNTS = (16, 9, 16)


def noise_batch(scene: Any, batch: int) -> dict[str, torch.Tensor]:
    return scene.comfy.empty_latent(batch=batch)


def picture(tokens: Any, index: int) -> Any:
    """One picture of a reference, with its own mask."""
    coverage = None if tokens.coverage is None else tokens.coverage[index : index + 1]
    return replace(tokens, tokens=tokens.tokens[index : index + 1], coverage=coverage)


def ragged() -> torch.Tensor:
    """Masks that leave another number of tokens of each picture."""
    return torch.stack([(torch.arange(16) < count).float() for count in COUNTS])


def alone(scene: Any, tokens: Any, index: int, batch: int, **options: Any) -> torch.Tensor:
    """Image `index` of a batch of equal noise in which every image reads only picture `index` of the reference."""
    single = scene.apply(scene.text, picture(tokens, index % tokens.num_pictures), **options)
    return scene.sample(single, latent=noise_batch(scene, batch))[index]


@pytest.mark.parametrize("coverage", [None, ragged()])
@pytest.mark.parametrize("batch", [3, 5, 2])  # as many images as pictures, more, fewer
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_per_image_is_each_picture_alone(scene: Any, coverage: Any, batch: int, strength: float) -> None:
    tokens = scene.tokens(pictures=3, coverage=coverage)
    conditioning = scene.apply(scene.text, tokens, batch="per image", strength=strength)
    mine = scene.sample(conditioning, latent=noise_batch(scene, batch))
    for index in range(batch):
        assert relative(mine[index], alone(scene, tokens, index, batch, strength=strength)) < 1e-5


SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")


def sample_by(scene: Any, name: str, conditioning: list, latent: dict[str, Any]) -> torch.Tensor:
    """Two steps of a sampler node of ComfyUI."""
    if name == "KSampler":
        return scene.sample(conditioning, latent=latent)
    model, negative = scene.flux, scene.comfy.conditioning(seed=99)
    if name == "KSamplerAdvanced":
        node, parts = scene.comfy.nodes.KSamplerAdvanced(), (2, 1.0, "euler", "simple")
        return node.sample(model, "enable", 0, *parts, conditioning, negative, latent, 0, 10000, "disable")[0][
            "samples"
        ]
    from comfy_extras import nodes_custom_sampler as custom

    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.5, 0.0])
    if name == "SamplerCustom":
        parts = (True, 0, 1.0, conditioning, negative, sampler, sigmas, latent)
        return custom.SamplerCustom.execute(model, *parts).args[0]["samples"]
    guider = custom.BasicGuider.execute(model, conditioning).args[0]
    noise = custom.RandomNoise.execute(0).args[0]
    return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("piece", [(0, 1), (1, 2), (2, 1), (3, 1)], ids=str)
def test_an_image_of_a_batch_keeps_its_picture_and_mask(scene: Any, name: str, piece: tuple[int, int]) -> None:
    """Latent From Batch notes which images it has taken. Their noise is that of the whole batch, too."""
    start, count = piece
    masks = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2))
    conditioning = scene.apply(scene.text, scene.tokens(pictures=3), batch="per image", region=masks)
    generator = torch.Generator().manual_seed(4)
    latent = {"samples": torch.randn(4, 16, 16, 16, generator=generator) * 0.1}
    whole = sample_by(scene, name, conditioning, latent)
    part = scene.comfy.nodes.LatentFromBatch().frombatch(latent, start, count)[0]
    assert relative(sample_by(scene, name, conditioning, part), whole[start : start + count]) < 1e-5


def test_rebatched_latents_keep_their_pictures(scene: Any) -> None:
    from comfy_extras.nodes_rebatch import LatentRebatch

    conditioning = scene.apply(scene.text, scene.tokens(pictures=3), batch="per image", strength=0.4)
    latent = noise_batch(scene, 3)
    whole = scene.sample(conditioning, latent=latent)
    pieces = LatentRebatch.execute([latent], [2]).args[0]
    assert [len(piece["samples"]) for piece in pieces] == [2, 1]
    found = torch.cat([scene.sample(conditioning, latent=piece) for piece in pieces])
    assert relative(found, whole) < 1e-5


def test_latents_that_were_numbered_apart_count_anew(scene: Any) -> None:
    """Latent Batch of two whole latents says 0, 1, 0, 1: their places are meant."""
    conditioning = scene.apply(scene.text, scene.tokens(pictures=4), batch="per image")
    latent = noise_batch(scene, 4)
    numbered = {**latent, "batch_index": [0, 1, 0, 1]}
    whole, found = (scene.sample(conditioning, latent=one) for one in (latent, numbered))
    assert relative(found[:2], whole[:2]) < 1e-5
    third = scene.apply(scene.text, picture(scene.tokens(pictures=4), 2))
    assert relative(found[2], scene.sample(third, latent={**latent, "batch_index": [0, 1, 0, 1]})[2]) < 1e-5


def test_joint_lets_every_image_read_all_pictures(scene: Any) -> None:
    tokens = scene.tokens(pictures=3, coverage=ragged())
    conditioning = scene.apply(scene.text, tokens, strength=0.4)
    model, calls = count_calls(scene.flux)
    scene.sample(conditioning, model, steps=1)
    assert calls[0]["context"].shape == (1, sum(COUNTS) + 8, scene.comfy.sizes.context)
    single = scene.text
    for index in reversed(range(3)):
        single = scene.apply(single, picture(tokens, index), strength=0.4)
    latent = noise_batch(scene, 2)
    assert relative(scene.sample(conditioning, latent=latent), scene.sample(single, latent=latent)) < 1e-5


def test_a_region_and_a_picture_for_each_image(scene: Any) -> None:
    tokens = scene.tokens(pictures=3, coverage=ragged())
    masks = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2))
    conditioning = scene.apply(scene.text, tokens, batch="per image", region=masks)
    mine = scene.sample(conditioning, latent=noise_batch(scene, 3))
    for index in range(3):
        assert relative(mine[index], alone(scene, tokens, index, 3, region=masks[index])) < 1e-5


@pytest.mark.parametrize("coverage", [None, ragged()])
@pytest.mark.parametrize("batch", [3, 2])
def test_prompt_and_zeroed_prompt_in_one_call(scene: Any, coverage: Any, batch: int) -> None:
    """ComfyUI joins both where it can: images repeat within the batch, and so must pictures and regions."""
    tokens = scene.tokens(pictures=3, coverage=coverage)
    masks = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2))
    positive = scene.apply(scene.text, tokens, batch="per image", region=masks, strength=0.7)
    negative = scene.comfy.nodes.ConditioningZeroOut().zero_out(positive)[0]
    model, calls = count_calls(scene.flux)
    latent = noise_batch(scene, batch)
    joined = scene.sample(positive, model, negative=negative, cfg=3.0, latent=latent)
    assert [call["batch"] for call in calls] == [2 * batch] * 2
    apart = [[text, {**options, "control": options["control"].copy()}] for text, options in negative]
    calls.clear()
    assert relative(joined, scene.sample(positive, model, negative=apart, cfg=3.0, latent=latent)) < 1e-5
    assert [call["batch"] for call in calls] == [batch] * 4


@pytest.mark.parametrize("coverage", [None, ragged()])
def test_equal_references_on_both_sides_are_one_call(scene: Any, coverage: Any) -> None:
    """As two texts of one length are. Each row reads the pictures of its own side, and counts as its own."""
    other = scene.comfy.conditioning(seed=5)
    options = {"strength": 0.4, "batch": "per image", "region": torch.rand(1, 8, 8)}
    sides = [
        scene.apply(
            text, scene.tokens(seed, pictures=2, coverage=None if coverage is None else coverage[:2]), **options
        )
        for text, seed in ((scene.text, 1), (other, 2))
    ]
    model, calls = count_calls(scene.flux)
    latent = noise_batch(scene, 2)
    joined = scene.sample(sides[0], model, negative=sides[1], cfg=3.0, latent=latent)
    assert [call["batch"] for call in calls] == [4] * 2
    apart = [[text, {**keys, "control": keys["control"].copy()}] for text, keys in sides[1]]
    assert relative(joined, scene.sample(sides[0], negative=apart, cfg=3.0, latent=latent)) < 1e-5


@pytest.mark.parametrize(
    "change",
    [{"strength": 0.5}, {"region": torch.zeros(1, 8, 8).fill_(0.3)}, {"end_percent": 0.9}, {"blocks": "single:=0"}],
)
def test_references_that_act_otherwise_are_calls_of_their_own(scene: Any, change: dict[str, Any]) -> None:
    tokens, options = scene.tokens(), {"strength": 0.4, "region": torch.ones(1, 8, 8)}
    model, calls = count_calls(scene.flux)
    sides = [scene.apply(scene.text, tokens, **keys) for keys in (options, options | change)]
    scene.sample(sides[0], model, negative=sides[1], cfg=3.0)
    assert [call["batch"] for call in calls] == [1] * 4


def alone_in_the_batch(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
    """A model_function_wrapper that calls the rows of a joined batch one by one, as packs do to save memory."""
    outputs = []
    for row in range(len(call["input"])):
        one = slice(row, row + 1)
        conditions = {
            key: value[one] if isinstance(value, torch.Tensor) and len(value) == len(call["input"]) else value
            for key, value in call["c"].items()
        }
        outputs.append(apply_model(call["input"][one], call["timestep"][one], **conditions))
    return torch.cat(outputs)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_that_are_called_alone_read_what_is_theirs(scene: Any, batch: int) -> None:
    tokens = scene.tokens(pictures=3, coverage=ragged())
    masks = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2))
    options = {"batch": "per image", "region": masks, "strength": 0.7}
    positive = scene.apply(scene.text, tokens, **options)
    negative = scene.apply(scene.comfy.conditioning(seed=5), tokens, **options)
    latent = noise_batch(scene, batch)
    model = scene.flux.clone()
    model.set_model_unet_function_wrapper(alone_in_the_batch)
    mine = scene.sample(positive, model, negative=negative, cfg=3.0, latent=latent)
    assert relative(mine, scene.sample(positive, negative=negative, cfg=3.0, latent=latent)) < 1e-5


def test_batches_that_do_not_fit_are_refused(scene: Any) -> None:
    two = scene.apply(scene.text, scene.tokens(pictures=2), batch="per image")
    with pytest.raises(ValueError, match="3 pictures and the conditioning 2 texts"):
        scene.apply(two, scene.tokens(pictures=3), batch="per image")


def test_joint_pictures_with_as_many_masks_pair(scene: Any) -> None:
    """Each picture acts where its own mask says, as two references that were applied one after the other."""
    tokens = scene.tokens(pictures=2)
    masks = torch.zeros(2, 16, 16)
    masks[0, :, :8], masks[1, 8:] = 1, 1
    expected = scene.text
    for index in range(2):
        expected = scene.apply(expected, picture(tokens, index), region=masks[index], strength=0.7)
    mine = scene.sample(scene.apply(scene.text, tokens, region=masks, strength=0.7))
    assert relative(mine, scene.sample(expected)) < 1e-5
    for index in range(2):
        one_for_both = scene.sample(scene.apply(scene.text, tokens, region=masks[index], strength=0.7))
        assert relative(mine, one_for_both) > 1e-3, "neither mask is dropped"
