"""Other patchers, other attentions and other packs' patches of the model."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.model_patcher
import pytest
import torch
from redux_scene import make_bias, relative

OVERRIDE = "optimized_attention_override"


def dense(scene: Any, model: Any = None) -> torch.Tensor:
    return scene.dense(make_bias(16 + 72, [(0, 16, 0.4)], 16), scene.tokens(), model=model)


def mine(scene: Any, model: Any = None, **options: Any) -> torch.Tensor:
    return scene.sample(scene.apply(scene.text, scene.tokens(), strength=0.4), model, **options)


def test_a_patcher_of_another_pack(scene: Any) -> None:
    """As GGUF does it: a subclass that takes a clone over and clones itself again."""

    class OtherPatcher(comfy.model_patcher.ModelPatcher):
        pass

    flux = scene.comfy.load_flux()
    model = OtherPatcher(flux.model, flux.load_device, flux.offload_device)
    clone = model.clone()
    assert type(clone) is OtherPatcher
    assert relative(mine(scene, clone), dense(scene)) < 1e-5


@pytest.mark.parametrize("name", ["attention_split", "attention_sub_quad", "attention_basic"])
def test_the_attention_that_the_user_chose(scene: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--use-split-cross-attention and the like: plain text goes through it, and the weights act nevertheless."""
    expected, calls = dense(scene), []
    chosen = getattr(comfy.ldm.modules.attention, name)

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(name)
        return chosen(*args, **kwargs)

    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", attention)
    assert relative(mine(scene), expected) < 1e-5
    assert calls
    text = scene.sample(scene.text)
    monkeypatch.undo()
    assert relative(text, scene.sample(scene.text)) < 1e-5


def with_override(scene: Any, override: Any) -> Any:
    model = scene.flux.clone()
    model.model_options["transformer_options"][OVERRIDE] = override
    return model


def test_an_override_that_calls_attention_is_called(scene: Any) -> None:
    """Here one that doubles the queries: the weights act on what it hands on, and its other options arrive."""
    calls: list[str] = []

    def double(func: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(kwargs["transformer_options"]["block_type"])
        return func(2 * q, *args, **kwargs)

    bias = make_bias(16 + 72, [(0, 16, 0.4)], 16)

    def doubled(func: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, **_: Any) -> torch.Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(2 * q, k, v, attn_mask=bias.to(q))
        return out.transpose(1, 2).flatten(2)

    result = mine(scene, with_override(scene, double))
    assert calls == ["double", "single", "single"] * 2
    expected = scene.sample(scene.plain(scene.tokens()), with_override(scene, doubled))
    assert relative(result, expected) < 1e-5
    assert relative(result, mine(scene)) > 1e-3


def test_an_override_that_replaces_attention_is_left_out(scene: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It cannot weigh. It is tried once in a sampling, and still serves conditionings without weights."""
    calls: list[int] = []

    def replace(func: Any, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(q.shape[2])
        return q.new_zeros(len(q), q.shape[2], q.shape[1] * q.shape[3])

    model = with_override(scene, replace)
    with caplog.at_level(logging.INFO):
        assert relative(mine(scene, model, steps=3), mine(scene, steps=3)) < 1e-6
    assert calls == [88]
    assert (
        sum("the attention of tests is left out of this sampling" in record.message for record in caplog.records) == 1
    )
    scene.sample(scene.text, model, steps=1)
    assert calls == [88, 72, 72, 72]


def test_an_override_that_adds_keys_gets_ordinary_attention(scene: Any) -> None:
    """Weights know the model's own keys only; with others nothing can be weighed, and nothing breaks."""

    def longer(func: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return func(q, torch.cat((k, k), dim=2), torch.cat((v, v), dim=2), *args, **kwargs)

    plain = scene.sample(scene.plain(scene.tokens()))
    assert relative(mine(scene, with_override(scene, longer)), plain) < 1e-5


def test_a_model_that_is_distilled_with_guidance(scene: Any) -> None:
    sizes = dataclasses.replace(scene.comfy.sizes, guidance=True, vector=768)
    flux = scene.comfy.load_flux(scene.comfy.write(sizes, "dev").diffusion_models)
    text = scene.comfy.conditioning(seed=1, guidance=4.0)
    conditioning = scene.apply(text, scene.tokens(), strength=0.4, end_percent=0.6)
    bias = make_bias(16 + 72, [(0, 16, 0.4)], 16)
    none = make_bias(16 + 72, [(0, 16, 0.0)], 16)
    boundary = flux.get_model_object("model_sampling").percent_to_sigma(0.6)
    expected = scene.dense(
        lambda options, _: bias if float(options["sigmas"][0]) > boundary else none,
        scene.tokens(),
        text=text,
        model=flux,
    )
    assert relative(scene.sample(conditioning, flux), expected) < 1e-5


def test_model_options_are_as_before(scene: Any) -> None:
    model = with_override(scene, lambda func, *args, **kwargs: func(*args, **kwargs))
    before = repr(model.model_options)
    mine(scene, model)
    assert repr(model.model_options) == before
