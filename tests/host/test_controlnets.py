"""ControlNets in the same conditioning, through ComfyUI's own nodes and its own FLUX ControlNet, a small one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from redux_scene import make_bias, relative

TEXT = 8


@pytest.fixture
def contexts(controlnet: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the context in each call of the ControlNet."""
    lengths: list[int] = []
    forward = controlnet.control_model.forward

    def record(*args: Any, context: torch.Tensor, **kwargs: Any) -> Any:
        lengths.append(context.shape[1])
        return forward(*args, context=context, **kwargs)

    monkeypatch.setattr(controlnet.control_model, "forward", record)
    return lengths


def hint(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(seed))


def advanced(scene: Any, controlnet: Any, positive: list, negative: list, seed: int = 0) -> tuple[list, list]:
    node = scene.comfy.nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(positive, negative, controlnet, hint(seed), 0.8, 0.0, 1.0)


def simple(scene: Any, controlnet: Any, positive: list, negative: list) -> tuple[list, list]:
    """The old node, which lets the negative share what the positive has."""
    return scene.comfy.nodes.ControlNetApply().apply_controlnet(positive, controlnet, hint(), 0.8)[0], negative


@pytest.mark.parametrize("node", [advanced, simple])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_before_and_after_are_the_dense_bias(scene: Any, controlnet: Any, node: Any, cfg: float) -> None:
    tokens, negative = scene.tokens(), scene.comfy.conditioning(seed=5)
    positive, plain_negative = node(scene, controlnet, scene.apply(scene.text, tokens, strength=0.4), negative)
    after = scene.sample(positive, negative=plain_negative, cfg=cfg)
    positive, plain_negative = node(scene, controlnet, scene.text, negative)
    before = scene.sample(scene.apply(positive, tokens, strength=0.4), negative=plain_negative, cfg=cfg)
    bias = make_bias(16 + TEXT + 64, [(0, 16, 0.4)], 16)
    positive, plain_negative = node(scene, controlnet, scene.plain(tokens), negative)
    model = scene.dense_model(lambda options, _: bias if 0 in options["cond_or_uncond"] else torch.zeros(1, 1, 72, 72))
    dense = scene.sample(positive, model, negative=plain_negative, cfg=cfg)
    assert relative(before, dense) < 1e-5 and relative(after, dense) < 1e-5
    assert relative(before, scene.sample(scene.apply(scene.text, tokens, strength=0.4), cfg=cfg)) > 1e-2


def test_between_two_controlnets(scene: Any, controlnet: Any) -> None:
    tokens, negative = scene.tokens(), scene.text
    first, _ = advanced(scene, controlnet, scene.text, negative, seed=1)
    both, _ = advanced(scene, controlnet, scene.apply(first, tokens, strength=0.4), negative, seed=2)
    last, _ = advanced(scene, controlnet, first, negative, seed=2)
    assert relative(scene.sample(both), scene.sample(scene.apply(last, tokens, strength=0.4))) < 1e-6


@pytest.mark.parametrize("after", [True, False])
def test_a_controlnet_reads_no_reference_out_of_its_time(
    scene: Any, controlnet: Any, contexts: list[int], after: bool
) -> None:
    options = {"strength": 0.4, "end_percent": 0.5}
    if after:
        positive, _ = advanced(scene, controlnet, scene.apply(scene.text, scene.tokens(), **options), scene.text)
    else:
        positive = scene.apply(advanced(scene, controlnet, scene.text, scene.text)[0], scene.tokens(), **options)
    scene.sample(positive, steps=4)
    assert contexts == [16 + TEXT] * 2 + [TEXT] * 2


def test_a_second_reference_after_a_controlnet_joins_the_first(scene: Any, controlnet: Any) -> None:
    first, second = scene.tokens(1), scene.tokens(2)
    positive, _ = advanced(scene, controlnet, scene.apply(scene.text, first, strength=0.4), scene.text)
    mine = scene.sample(scene.apply(positive, second, strength=2.0))
    both = scene.apply(scene.apply(scene.text, first, strength=0.4), second, strength=2.0)
    assert relative(mine, scene.sample(advanced(scene, controlnet, both, scene.text)[0])) < 1e-6
