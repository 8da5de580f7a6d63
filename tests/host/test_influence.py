"""The influence map: recorded shares against attention probabilities that are computed densely."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from redux_scene import make_bias, queue_with, region_weights

TEXT = 8
PICTURE = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "server", queue_with("KSampler", "ReduxInfluence"))
    yield


def influence(scene: Any, conditioning: list) -> Any:
    (result,) = sys.modules[scene.nodes["ReduxInfluence"].__module__].recorded(conditioning)
    assert torch.allclose(result.maps_BSyx.sum(1), torch.ones(1), atol=1e-5)
    return result


def dense_shares(scene: Any, bias: torch.Tensor, edges: list[int], *tokens: Any, **options: Any) -> torch.Tensor:
    """[B, S, 64]: probabilities of the image's queries, summed between the edges, averaged over heads and calls."""
    collected: list[torch.Tensor] = []

    def attend(func: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **_: Any) -> torch.Tensor:
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1)
        parts = weights[:, :, -64:].split([stop - start for start, stop in zip(edges, edges[1:], strict=False)], dim=-1)
        collected.append(torch.stack([part.sum(-1).mean(1) for part in parts], dim=1))
        return (weights @ v).transpose(1, 2).flatten(2)

    model = scene.flux.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = attend
    scene.sample(scene.plain(*tokens), model, **options)
    return torch.stack(collected).mean(0)


def test_shares_are_those_of_dense_attention(scene: Any, recording: None) -> None:
    """Two references, of which one has a region and pieces of two weights, for each of two images."""
    first, second = scene.tokens(1, rows=2), scene.tokens(2)
    region = torch.zeros(1, 8, 8)
    region[:, :, :3] = 0.7
    conditioning = scene.apply(scene.apply(scene.text, first, strength=0.5), second, region=region, strength=2.0)
    latent = scene.comfy.empty_latent(batch=2)
    scene.sample(conditioning, latent=latent)
    result = influence(scene, conditioning)
    weights = 2.0 * region_weights(region[0], TEXT, (16, 16))
    bias = make_bias(24 + 72, [(0, 16, weights), (16, 24, 0.5)], 24)
    dense = dense_shares(scene, bias, [0, 16, 24, 32, 96], second, first, latent=latent).unflatten(-1, (8, 8))
    assert result.names == ("reference 1", "reference 2", "text", "image")
    assert torch.allclose(result.maps_BSyx, dense[:, [1, 0, 2, 3]], atol=1e-5)


def test_a_region_of_zero_shows_zero_there(scene: Any, recording: None) -> None:
    region = torch.zeros(1, 8, 8)
    region[:, :, :4] = 1
    conditioning = scene.apply(scene.text, scene.tokens(), region=region)
    scene.sample(conditioning)
    reference = influence(scene, conditioning).maps_BSyx[0, 0]
    assert not reference[:, 4:].any() and (reference[:, :4] > 0).all()


def test_steps_without_the_reference_count(scene: Any, recording: None) -> None:
    """Half of the steps: about half of the share, exactly the mean over all steps."""
    tokens = scene.tokens()
    results = []
    for options in ({}, {"end_percent": 0.25}):
        conditioning = scene.apply(scene.text, tokens, **options)
        scene.sample(conditioning, steps=4)
        results.append(influence(scene, conditioning).maps_BSyx[0, 0].mean())
    assert 0 < results[1] < 0.4 * results[0]


def test_the_positive_and_the_last_sampling_count(scene: Any, recording: None) -> None:
    """The negative is the zeroed positive, in one call with it; then the same conditioning at another size."""
    alone, both = (scene.apply(scene.text, scene.tokens(), strength=0.5) for _ in range(2))
    scene.sample(alone, steps=1)
    negative = scene.comfy.nodes.ConditioningZeroOut().zero_out(both)[0]
    scene.sample(both, latent=scene.comfy.empty_latent(64, 192))
    assert influence(scene, both).maps_BSyx.shape == (1, 3, 4, 12)
    scene.sample(both, negative=negative, cfg=2.0, steps=1)
    assert torch.allclose(influence(scene, both).maps_BSyx, influence(scene, alone).maps_BSyx, atol=1e-6)


def test_recording_does_not_change_the_picture(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    conditioning = scene.apply(scene.apply(scene.text, scene.tokens(1)), scene.tokens(2), strength=0.5)
    without = scene.sample(conditioning)
    monkeypatch.setitem(sys.modules, "server", queue_with("ReduxInfluence"))
    assert (scene.sample(conditioning) - without).abs().max() < 1e-4 * without.abs().max()


def test_apply_runs_again_when_a_map_is_added(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node, seen = scene.nodes["ReduxApply"], []
    for types in (("KSampler",), ("KSampler", "ReduxInfluence")):
        monkeypatch.setitem(sys.modules, "server", queue_with(*types))
        seen.append(node.fingerprint_inputs(strength=1.0))
    assert seen == [False, True]


def test_the_sheets(scene: Any, recording: None) -> None:
    """One for each picture; entries with other numbers of references make sheets of their own, of one size."""
    one = scene.apply(scene.text, scene.tokens(1))
    two = scene.apply(scene.apply(scene.comfy.conditioning(seed=3), scene.tokens(1)), scene.tokens(2))
    scene.sample(one + two, latent=scene.comfy.empty_latent(batch=2))
    pictures = PICTURE.expand(2, -1, -1, -1)
    sheets = scene.nodes["ReduxInfluence"].execute(one + two, pictures).args[0]
    assert sheets.shape[0] == 4 and sheets.dtype == torch.float32
    assert sheets.min() >= 0 and sheets.max() <= 1
    assert len({float(sheet.mean()) for sheet in sheets}) == 4
    with pytest.raises(ValueError, match="There are 3 pictures, but 2 were sampled"):
        scene.nodes["ReduxInfluence"].execute(one, PICTURE.expand(3, -1, -1, -1))


def test_nothing_recorded_says_what_to_do(scene: Any) -> None:
    node, conditioning = scene.nodes["ReduxInfluence"], scene.apply(scene.text, scene.tokens(), strength=0.5)
    scene.sample(conditioning)  # no map in the graph
    with pytest.raises(ValueError, match="No attention was recorded .* connect the one that goes into the sampler"):
        node.execute(conditioning, PICTURE)
    with pytest.raises(ValueError, match="has no reference; connect the output of Apply Redux"):
        node.execute(scene.text, PICTURE)
