"""Together with ComfyUI's own nodes that work on a conditioning."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from redux_scene import make_bias, queue_with, region_weights, relative

TEXT = 8


def mask() -> torch.Tensor:
    return (torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def core_redux(scene: Any, conditioning: list, tokens: Any, strength: float) -> list:
    """StyleModelApply, which puts its tokens behind the text and a bias into an attention mask."""
    style = SimpleNamespace(get_cond=lambda _: tokens.tokens.clone())
    return scene.comfy.nodes.StyleModelApply().apply_stylemodel(conditioning, style, None, strength, "attn_bias")[0]


@pytest.mark.parametrize("first", ["core", "ours"])
@pytest.mark.parametrize("end", [1.0, 0.5])
def test_an_attention_mask_of_another_node_is_kept(scene: Any, first: str, end: float) -> None:
    """[ours | text | core's | image], both biases in one, in either order; also where ours is taken out half way."""
    mine, other = scene.tokens(1, rows=3), scene.tokens(2)
    options = {"strength": 0.3, "region": mask(), "end_percent": end}
    if first == "core":
        conditioning = scene.apply(core_redux(scene, scene.text, other, 0.5), mine, **options)
    else:
        conditioning = core_redux(scene, scene.apply(scene.text, mine, **options), other, 0.5)
    weights = 0.3 * region_weights(mask()[0], TEXT + 16, (16, 16))
    length = 12 + TEXT + 16 + 64
    # Core's bias is not for its own queries, 20..36, and our tokens, which it does not know, are not weighed by it.
    cores = torch.ones(length).masked_fill(_rows(length, 12 + TEXT, 12 + TEXT + 16), 2.0) * 0.5
    both = make_bias(length, [(0, 12, weights)], 12) + make_bias(length, [(20, 36, cores)], 0)
    both[:, :, :12] = 0
    later = make_bias(length - 12, [(8, 24, cores[12:])], 0)
    text = [[torch.cat((scene.text[0][0], other.tokens), dim=1), scene.text[0][1]]]
    if end == 1.0:
        dense = scene.dense(both, mine, text=text, steps=4)
        assert relative(scene.sample(conditioning, steps=4), dense) < 1e-4  # core keeps its mask in fp16
        return
    model = scene.dense_model(lambda options, _: both if float(options["sigmas"][0]) > 0.5 else later)
    rest = scene.comfy.nodes.ConditioningSetTimestepRange().set_range
    parts = rest(scene.plain(mine, text=text), 0.0, 0.45)[0] + rest(text, 0.45, 1.0)[0]
    assert relative(scene.sample(conditioning, steps=4), scene.sample(parts, model, steps=4)) < 1e-4


def _rows(length: int, start: int, stop: int) -> torch.Tensor:
    rows = torch.arange(length)
    return (rows >= start) & (rows < stop)


@pytest.mark.parametrize("sizes", [[(16, 16)], [(16, 16), (11, 14)]])
@pytest.mark.parametrize("before", [True, False])
def test_kontext_pictures_keep_weight_one_in_a_region(scene: Any, sizes: list[tuple[int, int]], before: bool) -> None:
    from comfy_extras.nodes_edit_model import ReferenceLatent

    def with_pictures(conditioning: list) -> list:
        for index, size in enumerate(sizes):
            generator = torch.Generator().manual_seed(index)
            latent = {"samples": torch.randn(1, 16, *size, generator=generator)}
            conditioning = ReferenceLatent.execute(conditioning, latent).args[0]
        return conditioning

    tokens, options = scene.tokens(), {"strength": 0.4, "region": mask()}
    if before:
        conditioning = scene.apply(with_pictures(scene.text), tokens, **options)
    else:
        conditioning = with_pictures(scene.apply(scene.text, tokens, **options))
    extra = sum(-(-height // 2) * -(-width // 2) for height, width in sizes)
    weights = 0.4 * torch.cat((region_weights(mask()[0], TEXT, (16, 16)), torch.ones(extra)))
    bias = make_bias(16 + len(weights), [(0, 16, weights)], 16)
    dense = scene.sample(with_pictures(scene.plain(tokens)), scene.dense_model(bias))
    assert relative(scene.sample(conditioning), dense) < 1e-5


def cached(nodes_flux: Any, model: Any) -> Any:
    """What ComfyUI's FluxKVCache patches into a model, without the timestep method that FLUX.1 does not have."""
    model, cache = model.clone(), nodes_flux.KV_Attn_Input()

    def shorten(inputs: dict[str, Any]) -> dict[str, Any]:
        return {**inputs, "img": inputs["img"][:, :-64]} if cache.cache else inputs

    model.set_model_attn1_patch(cache)
    model.set_model_post_input_patch(shorten)
    return model


def test_kontext_with_cached_keys(scene: Any) -> None:
    """From the second step on the cache leaves the queries of the pictures out and keeps their keys."""
    nodes_flux = pytest.importorskip("comfy_extras.nodes_flux")
    if not hasattr(nodes_flux, "KV_Attn_Input"):
        pytest.skip("this ComfyUI has no cache for the keys of Kontext pictures")
    from comfy_extras.nodes_edit_model import ReferenceLatent

    latent = {"samples": torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))}
    tokens = scene.tokens()
    weights = 0.4 * torch.cat((region_weights(mask()[0], TEXT, (16, 16)), torch.ones(64)))
    bias = make_bias(16 + TEXT + 128, [(0, 16, weights)], 16)

    def shortened(options: dict[str, Any], _: int) -> torch.Tensor:
        return bias if float(options["sigmas"][0]) > 0.99 else bias[:, :, :-64]

    mine = ReferenceLatent.execute(scene.apply(scene.text, tokens, strength=0.4, region=mask()), latent).args[0]
    result = scene.sample(mine, cached(nodes_flux, scene.flux), steps=3)
    plain = ReferenceLatent.execute(scene.plain(tokens), latent).args[0]
    dense = scene.sample(plain, scene.dense_model(shortened, cached(nodes_flux, scene.flux)), steps=3)
    assert relative(result, dense) < 1e-5
    assert relative(result, scene.sample(mine, steps=3)) > 1e-3


def test_a_negative_with_references_of_its_own(scene: Any) -> None:
    good, bad = scene.tokens(1), scene.tokens(2, rows=3)
    other = scene.comfy.conditioning(seed=5)
    positive, negative = scene.apply(scene.text, good, strength=0.4), scene.apply(other, bad, strength=2.0)
    biases = {0: make_bias(16 + 72, [(0, 16, 0.4)], 16), 1: make_bias(12 + 72, [(0, 12, 2.0)], 12)}
    model = scene.dense_model(lambda options, _: biases[options["cond_or_uncond"][0]])
    dense = scene.sample(scene.plain(good), model, negative=scene.plain(bad, text=other), cfg=3.0)
    assert relative(scene.sample(positive, negative=negative, cfg=3.0), dense) < 1e-5


def test_a_plain_negative_is_not_touched(scene: Any) -> None:
    tokens, other = scene.tokens(), scene.comfy.conditioning(seed=5)
    bias = {0: make_bias(16 + 72, [(0, 16, 0.4)], 16), 1: torch.zeros(1, 1, 72, 72)}
    model = scene.dense_model(lambda options, _: bias[options["cond_or_uncond"][0]])
    dense = scene.sample(scene.plain(tokens), model, negative=other, cfg=3.0)
    mine = scene.apply(scene.text, tokens, strength=0.4)
    assert relative(scene.sample(mine, negative=other, cfg=3.0), dense) < 1e-5


def test_concat_and_average_keep_the_reference(scene: Any) -> None:
    """They work on the texts; the reference is that of the first input, whole."""
    tokens, other = scene.tokens(), scene.comfy.conditioning(seed=5)
    nodes, options = scene.comfy.nodes, {"strength": 0.4, "region": mask()}
    mine = nodes.ConditioningConcat().concat(scene.apply(scene.text, tokens, **options), other)[0]
    joined = nodes.ConditioningConcat().concat(scene.text, other)[0]
    assert relative(scene.sample(mine), scene.sample(scene.apply(joined, tokens, **options))) < 1e-5
    mean = nodes.ConditioningAverage().addWeighted(scene.text, other, 0.3)[0]
    expected = scene.sample(scene.apply(mean, tokens, **options))
    for second in (scene.apply(other, tokens, **options), other, scene.apply(other, scene.tokens(9, rows=3))):
        mine = nodes.ConditioningAverage().addWeighted(scene.apply(scene.text, tokens, **options), second, 0.3)[0]
        assert relative(scene.sample(mine), expected) < 1e-5


def test_an_average_from_a_reference_is_a_text(scene: Any) -> None:
    nodes, other = scene.comfy.nodes, scene.comfy.conditioning(seed=5)
    mine = nodes.ConditioningAverage().addWeighted(other, scene.apply(scene.text, scene.tokens()), 0.3)[0]
    assert torch.equal(
        scene.sample(mine), scene.sample(nodes.ConditioningAverage().addWeighted(other, scene.text, 0.3)[0])
    )


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_zero_out_empties_a_reference_too(scene: Any, strength: float) -> None:
    """Its tokens become zeros, which keep their weight; a reference that is put to a text of zeros stays whole."""
    tokens, zero = scene.tokens(), scene.comfy.nodes.ConditioningZeroOut().zero_out
    nothing = dataclasses.replace(tokens, tokens=torch.zeros_like(tokens.tokens))
    bias = make_bias(16 + TEXT + 64, [(0, 16, strength)], 16)
    zeroed = zero(scene.apply(scene.text, tokens, strength=strength))[0]
    empty = zero(scene.text)[0]
    assert relative(scene.sample(zeroed), scene.dense(bias, nothing, text=empty)) < 1e-5
    bare = scene.apply(empty, tokens, strength=strength)
    assert relative(scene.sample(bare), scene.dense(bias, tokens, text=empty)) < 1e-5
    second = scene.apply(zeroed, scene.tokens(9), strength=strength)
    bias = make_bias(32 + TEXT + 64, [(0, 16, strength), (16, 32, strength)], 32)
    assert relative(scene.sample(second), scene.dense(bias, scene.tokens(9), nothing, text=empty)) < 1e-5


@pytest.mark.parametrize("class_type", ["ConditioningConcat", "ConditioningAverage"])
@pytest.mark.parametrize(("wire", "said"), [("conditioning_from", True), ("conditioning_to", False)])
def test_a_reference_that_will_be_left_out_is_told(
    scene: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, class_type: str, wire: str, said: bool
) -> None:
    """The graph says so already when the reference is applied; here with another node between."""
    from comfy_execution.utils import CurrentNodeContext

    server = queue_with("ReduxApply", "ConditioningSetTimestepRange", class_type, "KSampler")
    prompt = server.PromptServer.instance.prompt_queue.currently_running[0][2]
    prompt["1"]["inputs"] = {"conditioning": ["0", 0]}
    prompt["2"]["inputs"] = {"conditioning_to": ["9", 0], "conditioning_from": ["9", 0], wire: ["1", 0]}
    prompt["3"]["inputs"] = {"positive": ["2", 0]}
    sent: list[tuple[str, str]] = []
    server.PromptServer.instance.client_id = "page"
    server.PromptServer.instance.send_progress_text = lambda text, node, _: sent.append((text, node))
    server.PromptServer.instance.send_sync = lambda *_: None
    monkeypatch.setitem(sys.modules, "server", server)
    with CurrentNodeContext("id", "0"), caplog.at_level("WARNING"):
        scene.apply(scene.text, scene.tokens())
    told = [text for text, node in sent if node == "0" and f"{class_type} reads only the text" in text]
    assert bool(told) == said == ("this reference does not act there" in caplog.text)
