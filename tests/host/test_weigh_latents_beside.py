"""Weighed pictures of Kontext beside what else acts: references, a negative, caches, kept keys, influence maps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kontext_scene import (
    COUNTS,
    IMAGE,
    SIZES,
    TEXT,
    amounts_of,
    attend_by,
    dense_model,
    mask,
    regional,
    weigh,
    with_pictures,
)
from redux_scene import count_calls, queue_with, region_weights, relative
from test_conditioning_nodes import cached
from test_keep import twice
from test_tiles import HALVES, NOISE, sample, with_cut_pictures
from torch import Tensor


@pytest.mark.parametrize("first", ["redux", "pictures"])
@pytest.mark.parametrize("responses", [("even", "even"), ("weight", "weight"), ("even", "weight")])
def test_beside_apply_redux(scene: Any, first: str, responses: tuple[str, str]) -> None:
    tokens, options = scene.tokens(), {"strength": 0.6, "response": responses[0]}
    if first == "redux":
        mine = with_pictures(scene.apply(scene.text, tokens, **options))
    else:
        mine = with_pictures(scene.text)
    mine = weigh(scene, mine, 1, 0.8, region=mask(), response=responses[1])
    mine = weigh(scene, mine, 2, 0.3, response=responses[1])
    if first != "redux":
        mine = scene.apply(mine, tokens, **options)
    count = tokens.tokens.shape[1]
    pictures = amounts_of(regional(0.8, mask()), 0.3, first=count)
    rows = torch.full((1, pictures[-1][1]), 0.6)
    rows[:, :count] = 1
    groups = [(0, count, rows), *pictures]
    if responses[0] == responses[1]:
        attend = attend_by(groups, responses[0])
    else:  # one share, so that the mixture is of two biases
        attend = mixture(groups, pictures)
    dense = scene.sample(with_pictures(scene.plain(tokens)), dense_model(scene, attend))
    assert relative(scene.sample(mine), dense) < 1e-5


def mixture(groups: list, pictures: list) -> Callable[..., Tensor]:
    """The first group by its share, the others by their weights."""
    start, stop, rows = groups[0]
    with_it = attend_by(pictures, "weight")
    without = attend_by([(start, stop, torch.where(rows < 1, 0.0, 1.0)), *pictures], "weight")

    def attend(*args: Any, **options: Any) -> Tensor:
        out = with_it(*args, **options)
        return torch.lerp(without(*args, **options), out, rows[:, :, None].to(out))

    return attend


@pytest.mark.parametrize("shared", [True, False])
def test_beside_a_negative(scene: Any, shared: bool) -> None:
    """A negative with the same weights is in one call with the positive; one without keeps its picture whole."""
    base, other = with_pictures(scene.text), with_pictures(scene.comfy.conditioning(seed=5))
    mine = weigh(scene, base, strength=0.4)
    negative = weigh(scene, other, strength=0.4) if shared else other
    weighed, plain = attend_by(amounts_of(0.4, 0.4), "even"), attend_by([], "weight")

    def attend(*args: Any, **options: Any) -> Tensor:
        kinds = options["transformer_options"]["cond_or_uncond"]
        out = weighed(*args, **options)
        if not shared:
            rows = [kinds[row * len(kinds) // len(out)] for row in range(len(out))]
            out = torch.where(torch.tensor(rows, device=out.device)[:, None, None] == 1, plain(*args, **options), out)
        return out

    model, calls = count_calls(scene.flux)
    found = scene.sample(mine, model, negative=negative, cfg=3.0)
    assert relative(found, scene.sample(base, dense_model(scene, attend), negative=other, cfg=3.0)) < 1e-5
    assert {call["batch"] for call in calls} == {2 if shared else 1}


def test_with_a_cache_of_their_keys(scene: Any) -> None:
    nodes_flux = pytest.importorskip("comfy_extras.nodes_flux")
    if not hasattr(nodes_flux, "KV_Attn_Input"):
        pytest.skip("this ComfyUI has no cache for the keys of Kontext pictures")
    base = with_pictures(scene.text, SIZES[:1])
    mine = weigh(scene, base, strength=0.5, region=mask(), response="weight")
    attend = attend_by(amounts_of(regional(0.5, mask())), "weight")
    dense = scene.sample(base, dense_model(scene, attend, cached(nodes_flux, scene.flux)), steps=3)
    found = scene.sample(mine, cached(nodes_flux, scene.flux), steps=3)
    assert relative(found, dense) < 1e-5 < relative(found, scene.sample(mine, steps=3))
    late = weigh(scene, base, start_percent=0.5)
    assert bool(torch.isfinite(scene.sample(late, cached(nodes_flux, scene.flux), steps=4)).all())


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_kept_references_stay_kept(scene: Any, cfg: float) -> None:
    """A step that reads what this very step left is the full step."""
    redux = scene.nodes["ReduxKeep"].execute(scene.apply(scene.text, scene.tokens(), strength=0.5), "close").args[0]
    mine = weigh(scene, with_pictures(redux), 1, 0.3, region=mask())
    said, again, calls = twice(mine, scene, cfg=cfg, batch=2)
    lengths = [call["context"].shape[1] for call in calls]
    assert max(lengths) > TEXT == lengths[-1]
    torch.testing.assert_close(again, said, atol=1e-5, rtol=1e-5)
    later = scene.nodes["ReduxKeep"].execute(weigh(scene, with_pictures(scene.text), strength=0.5), "close").args[0]
    model, calls = count_calls(scene.flux)
    scene.sample(scene.apply(later, scene.tokens()), model, steps=8)
    assert min(call["context"].shape[1] for call in calls) == TEXT


@pytest.mark.parametrize("redux", [True, False])
def test_each_picture_has_a_map(scene: Any, monkeypatch: pytest.MonkeyPatch, redux: bool) -> None:
    monkeypatch.setitem(sys.modules, "server", queue_with("KSampler", "ReduxInfluence"))
    tokens = scene.tokens()
    base = with_pictures(scene.apply(scene.text, tokens) if redux else scene.text)
    mine = weigh(scene, base, 1, 0.3, region=mask(), response="weight")
    scene.sample(mine)
    (result,) = sys.modules[scene.nodes["ReduxInfluence"].__module__].recorded(mine)
    assert result.names == (*["reference 1"][: int(redux)], "picture 1", "picture 2", "text", "image")
    first = 16 if redux else 0
    (start, stop, rows), other = amounts_of(regional(0.3, mask()), 1.0, first=first)
    edges = [0, first, first + TEXT, start, stop, other[1]]
    collected: list[Tensor] = []

    def attend(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
        logits = q @ k.mT * q.shape[-1] ** -0.5
        logits[..., start:stop] += rows.log()[:, None, :, None].to(logits.device)
        weights = logits.softmax(-1)
        lengths = [high - low for low, high in zip(edges, edges[1:], strict=False)]
        reference, text, image, *pictures = weights[:, :, edges[2] : start].split(lengths, dim=-1)
        parts = [*([reference] if redux else []), *pictures, text, image]
        collected.append(torch.stack([part.sum(-1).mean(1) for part in parts], dim=1))
        return (weights @ v).transpose(1, 2).flatten(2)

    scene.sample(with_pictures(scene.plain(tokens) if redux else scene.text), dense_model(scene, attend))
    dense = torch.stack(collected).mean(0).unflatten(-1, (8, 8))
    assert torch.allclose(result.maps_BSyx.cpu(), dense.cpu(), atol=1e-5)
    sheets = scene.nodes["ReduxInfluence"].execute(mine, torch.rand(1, 128, 128, 3)).args[0]
    assert sheets.ndim == 4


@pytest.mark.parametrize("redux", [True, False])
def test_a_tile_has_its_part_of_the_region(scene: Any, redux: bool) -> None:
    """Packs that sample tile by tile cut the regions of all controls; the picture itself stays whole."""
    tokens, first = scene.tokens(), 16 if redux else 0
    base = with_pictures(scene.apply(scene.text, tokens) if redux else scene.text, SIZES[:1])
    mine = weigh(scene, base, strength=0.7, region=mask(), response="weight")
    stop = first + TEXT + IMAGE // 2 + COUNTS[0]
    for columns in HALVES:
        weights = region_weights(mask()[0, :, columns], TEXT, (16, 8))
        rows = 0.7 * torch.cat((weights[:1].expand(first), weights, torch.ones(COUNTS[0])))
        rows[-COUNTS[0] :] = 1
        attend = attend_by([(stop - COUNTS[0], stop, rows[None])], "weight")
        plain = with_pictures(scene.plain(tokens) if redux else scene.text, SIZES[:1])
        dense = sample(scene, dense_model(scene, attend), NOISE[..., columns], plain)
        found = sample(scene, scene.flux, NOISE[..., columns], with_cut_pictures(mine, columns))
        assert relative(found, dense) < 1e-5


def test_saved_and_loaded(scene: Any) -> None:
    mine = weigh(scene, with_pictures(scene.apply(scene.text, scene.tokens(), strength=0.5)), 2, 0.3, region=mask())
    scene.nodes["ReduxSaveConditioning"].execute(mine, "redux/pictures")
    loaded = scene.nodes["ReduxLoadConditioning"].execute("redux/pictures_00001_.safetensors [output]").args[0]
    assert torch.equal(scene.sample(loaded), scene.sample(mine))
