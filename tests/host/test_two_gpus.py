"""Two GPUs: ComfyUI's multi-GPU work units with weighted references on each, and the towers on another device."""

from __future__ import annotations

import dataclasses
from typing import Any

import comfy.model_management as memory
import pytest
import torch
from redux_scene import relative

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture
def split(scene: Any) -> Any:
    """The scene's FLUX on both devices, which share the prompt with and without a reference."""
    nodes_multigpu = pytest.importorskip("comfy_extras.nodes_multigpu")
    if not hasattr(nodes_multigpu, "MultiGPUCFGSplitNode"):
        pytest.skip("this ComfyUI has no multi-GPU work units")
    return nodes_multigpu.MultiGPUCFGSplitNode.execute(scene.comfy.load_flux(), 2).args[0]


def test_each_device_weighs_its_own_reference(scene: Any, split: Any) -> None:
    """Positive and negative have references of their own; both in one call on one GPU are the truth."""
    region = torch.zeros(1, 16, 16)
    region[..., :8] = 1
    positive = scene.apply(scene.text, scene.tokens(1), strength=0.4, region=region)
    negative = scene.apply(scene.comfy.conditioning(seed=5), scene.tokens(2, rows=3), strength=2.0)
    devices: set[torch.device] = set()
    for model in (split, *split.get_additional_models_with_key("multigpu")):
        block = model.model.diffusion_model.single_blocks[0]
        block.register_forward_pre_hook(lambda _, args: devices.add(args[0].device) or None)
    expected = scene.sample(positive, negative=negative, cfg=3.0)
    found = scene.sample(positive, split, negative=negative, cfg=3.0)
    assert relative(found, expected) < 1e-4
    assert len(devices) == 2
    weak = scene.apply(scene.text, scene.tokens(1), strength=0.9, region=region)
    assert relative(scene.sample(weak, split, negative=negative, cfg=3.0), found) > 1e-3


def test_the_towers_on_another_device_than_flux(
    scene: Any, redux_nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy, image = scene.comfy, torch.rand(1, 60, 80, 3, generator=torch.Generator().manual_seed(5))
    pictures = []
    for index in (0, 1):
        monkeypatch.setattr(memory, "text_encoder_device", lambda index=index: torch.device("cuda", index))
        model = redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "fp32").args[0]
        assert model.patcher.load_device.index == index
        tokens = redux_nodes["ReduxEncode"].execute(model, image, {"fit": "stretch"}).args[0]
        on_it = dataclasses.replace(tokens, tokens=tokens.tokens.to(f"cuda:{index}"))
        pictures.append(scene.sample(scene.apply(scene.text, on_it, strength=0.5)))
    assert relative(*pictures) < 1e-4
