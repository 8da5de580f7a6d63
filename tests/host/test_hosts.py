"""What docs/hosts.md says of a ComfyUI that lacks something: it is said in the log, and the picture is what is left."""

from __future__ import annotations

import logging
from typing import Any

import comfy.ldm.flux.math
import pytest
import torch
from redux_scene import relative


def weighted(scene: Any) -> list:
    return scene.apply(scene.text, scene.tokens(), strength=0.3, region=torch.eye(8)[None])


def lines(caplog: Any) -> list[str]:
    return [record.message for record in caplog.records if "Redux" in record.message]


def test_wrappers_that_are_not_called(scene: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("redux_control.nodes.host.control._wrap", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        mine = scene.sample(weighted(scene))
    assert relative(mine, scene.sample(scene.apply(scene.text, scene.tokens()))) < 1e-6
    (line,) = lines(caplog)
    assert "this ComfyUI does not call wrappers of the model, so strength" in line


def test_flux_that_calls_attention_by_another_name(scene: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Its blocks hand the options on, so the weights act all the same."""
    expected, original = scene.sample(weighted(scene)), comfy.ldm.flux.math.optimized_attention
    attention = comfy.ldm.flux.math.attention

    def other(q: Any, k: Any, v: Any, pe: Any, mask: Any = None, transformer_options: Any = None) -> torch.Tensor:
        q, k = comfy.ldm.flux.math.apply_rope(q, k, pe)
        return original(q, k, v, q.shape[1], skip_reshape=True, mask=mask, transformer_options=transformer_options)

    monkeypatch.setattr("comfy.ldm.flux.layers.attention", other)
    monkeypatch.delattr(comfy.ldm.flux.math, "optimized_attention")
    with caplog.at_level(logging.WARNING):
        mine = scene.sample(weighted(scene))
    assert attention is comfy.ldm.flux.math.attention and relative(mine, expected) < 1e-6
    assert any("FLUX's blocks call attention by another name" in line for line in lines(caplog))


def test_areas_that_are_not_told(scene: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("redux_control.nodes.host.mark._canvas", lambda: None)
    area = scene.comfy.nodes.ConditioningSetArea().append(weighted(scene), 64, 128, 0, 0, 1.0)[0]
    with caplog.at_level(logging.WARNING):
        scene.sample(area + scene.comfy.conditioning(seed=5), steps=2)
    (line,) = lines(caplog)
    assert "regions are stretched over areas" in line
