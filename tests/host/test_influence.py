"""The influence map: recorded shares against attention probabilities that are computed densely."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from redux_scene import make_bias, queue_with, region_weights, relative

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
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias.to(q)).softmax(-1)
        parts = weights[:, :, -64:].split([stop - start for start, stop in zip(edges, edges[1:], strict=False)], dim=-1)
        collected.append(torch.stack([part.sum(-1).mean(1) for part in parts], dim=1))
        return (weights @ v).transpose(1, 2).flatten(2)

    model = scene.flux.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = attend
    scene.sample(scene.plain(*tokens), model, **options)
    return torch.stack(collected).mean(0).cpu()


def test_shares_are_those_of_dense_attention(scene: Any, recording: None) -> None:
    """Two references, of which one has a region and parts of two weights, for each of two images."""
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
    assert seen[0] != seen[1]


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


@pytest.mark.parametrize("options", [{"strength": 0.0}, {"region": torch.zeros(1, 8, 8)}, None])
def test_nothing_that_acts_is_a_sheet_that_says_so(scene: Any, recording: None, options: dict[str, Any] | None) -> None:
    """At strength 0, with a region of zeros, and where Apply Redux is bypassed; one sheet for each picture."""
    conditioning = scene.text if options is None else scene.apply(scene.text, scene.tokens(), **options)
    scene.sample(conditioning)
    pictures = torch.cat((PICTURE, PICTURE.flip(1)))
    sheets = scene.nodes["ReduxInfluence"].execute(conditioning, pictures).args[0]
    assert len(sheets) == 2 and relative(sheets[0], sheets[1]) > 0.05
    acted = scene.apply(scene.text, scene.tokens(), end_percent=0.001)
    scene.sample(acted, steps=2)
    several = scene.nodes["ReduxInfluence"].execute(acted, PICTURE).args[0]
    assert several[0].numel() > 2 * sheets[0].numel(), "a reference that had its time has maps"


@pytest.fixture
def run_as(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """run_as(node id): what follows is executed by this node of a graph with two samplers and a map for each one."""
    from comfy_execution.utils import CurrentNodeContext

    server, said = queue_with(), []
    wires = {
        "first": {"class_type": "KSampler", "inputs": {"positive": ["text", 0]}},
        "second": {"class_type": "KSampler", "inputs": {"positive": ["text", 0], "latent_image": ["first", 0]}},
        "decode 1": {"class_type": "VAEDecode", "inputs": {"samples": ["first", 0]}},
        "decode 2": {"class_type": "VAEDecode", "inputs": {"samples": ["second", 0]}},
        "map 1": {"class_type": "ReduxInfluence", "inputs": {"images": ["decode 1", 0]}},
        "map 2": {"class_type": "ReduxInfluence", "inputs": {"images": ["decode 2", 0]}},
        "load": {"class_type": "LoadImage", "inputs": {}},
        "map 3": {"class_type": "ReduxInfluence", "inputs": {"images": ["load", 0]}},
    }
    server.PromptServer.instance.prompt_queue.currently_running[0][2].update(wires)
    server.PromptServer.instance.client_id = "page"
    server.PromptServer.instance.send_progress_text = lambda text, node_id, _: said.append((node_id, text))
    server.PromptServer.instance.send_sync = lambda *_: None
    monkeypatch.setitem(sys.modules, "server", server)
    context = lambda node_id: CurrentNodeContext("prompt", node_id)  # noqa: E731
    context.said = said
    return context


def test_two_samplers_on_one_conditioning_have_maps_of_their_own(scene: Any, run_as: Any) -> None:
    """The map follows its pictures back to their sampler, though the other one, further back or later, recorded too."""
    conditioning, alone = (scene.apply(scene.text, scene.tokens(), strength=0.5) for _ in range(2))
    expected = []
    for seed, name in ((1, "first"), (2, "second")):
        with run_as(name):
            scene.sample(conditioning, seed=seed)
            scene.sample(alone, seed=seed)
            expected.append(influence(scene, alone).maps_BSyx)
    assert relative(expected[0], expected[1]) > 1e-3
    for name, maps in zip(("map 1", "map 2"), expected, strict=True):
        with run_as(name):
            assert torch.equal(influence(scene, conditioning).maps_BSyx, maps)
    assert not [text for node, text in run_as.said if node.startswith("map")]
    with run_as("map 3"):  # pictures of nobody: the last, and a word about it
        assert torch.equal(influence(scene, conditioning).maps_BSyx, expected[1])
    assert run_as.said[-1][0] == "map 3" and "2 samplers have used this conditioning" in run_as.said[-1][1]


def test_the_node_that_samples_says_what_the_references_have_so_far(scene: Any, run_as: Any) -> None:
    conditioning = scene.apply(scene.apply(scene.text, scene.tokens(1)), scene.tokens(2), strength=0.5)
    with run_as("first"):
        scene.sample(conditioning)
        shares = influence(scene, conditioning).maps_BSyx.mean(dim=(0, 2, 3))
    said = [text for node, text in run_as.said if node == "first"]
    assert said[-1] == "" and len(said) >= 2  # gone when the sampling is done
    numbers = re.fullmatch(r"reference 1 has ([\d.]+) %, reference 2 has ([\d.]+) %", said[0])
    assert numbers and all(
        abs(float(number) / 100 - float(share)) < 0.5 * float(share)
        for number, share in zip(numbers.groups(), shares[:2], strict=True)
    )


@pytest.mark.parametrize("previews", ["none", "auto"])
def test_the_map_so_far_is_drawn_while_sampling(scene: Any, run_as: Any, previews: str, monkeypatch: Any) -> None:
    """On the node that samples; where ComfyUI draws previews there, on the map of its pictures."""
    import comfy.cli_args
    import comfy.utils

    drawn: list[tuple[str, Any, int, int]] = []

    def hook(value: int, total: int, picture: Any, node_id: str | None = None, **_: Any) -> None:
        if picture is not None:
            drawn.append((str(node_id), picture, value, total))

    method = comfy.cli_args.LatentPreviewMethod(previews)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", method)
    conditioning = scene.apply(scene.apply(scene.text, scene.tokens(1)), scene.tokens(2), strength=0.5)
    with run_as("first"):
        scene.sample(conditioning)
    node = {"none": "first", "auto": "map 1"}[previews]
    ((kind, picture, size), value, total), *_ = [shown[1:] for shown in drawn if shown[0] == node]
    assert kind == "JPEG" and size is None and picture.width == 512 and 0 <= value <= total
    assert not [shown for shown in drawn if shown[0] == "map 2"]
    drawn.clear()
    monkeypatch.setitem(sys.modules, "server", queue_with("KSampler"))  # a graph without a map
    with run_as("first"):
        scene.sample(conditioning)
    ours = [shown for shown in drawn if shown[1][1].width == 512]
    assert not ours


def test_the_map_shows_itself(scene: Any, recording: None) -> None:
    """Without a Save node: the node is an output, and hands the page a file of each sheet."""
    node = scene.nodes["ReduxInfluence"]
    conditioning = scene.apply(scene.text, scene.tokens())
    scene.sample(conditioning)
    output = node.execute(conditioning, PICTURE)
    (file,) = output.ui["images"]
    assert node.GET_SCHEMA().is_output_node and file["type"] == "temp"
    from pathlib import Path

    from PIL import Image

    with Image.open(Path(scene.comfy.folder_paths.get_temp_directory()) / file["filename"]) as shown:
        assert shown.size == (output.args[0].shape[2], output.args[0].shape[1])
