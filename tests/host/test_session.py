"""What a sampling leaves behind: nothing; and what it says when the weights could not act."""

from __future__ import annotations

import copy
import logging
from typing import Any

import comfy.model_management
import comfy.sample
import pytest
import torch
from redux_scene import relative


def weighted(scene: Any, **options: Any) -> list:
    return scene.apply(scene.text, scene.tokens(), **{"strength": 0.4, **options})


def tensors(value: Any, path: str = "") -> dict[str, tuple[int, torch.Tensor]]:
    """All tensors of a conditioning by their place, with their identity and a copy."""
    if isinstance(value, torch.Tensor):
        return {path: (id(value), value.clone())}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {key: tensor for name, item in items for key, tensor in tensors(item, f"{path}.{name}").items()}


def shape(value: Any) -> Any:
    """Lists and dicts as they are nested, everything else by identity."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, (list, tuple)) else id(value)


def test_nothing_that_is_passed_in_changes(scene: Any) -> None:
    text = scene.comfy.conditioning(seed=1, batch=1)
    text[0][1]["attention_mask"] = torch.zeros(1, 9, 9)
    text[0][1]["attention_mask_img_shape"] = (1, 1)
    first = scene.apply(text, scene.tokens(1), strength=0.4)
    tokens, region = scene.tokens(2), torch.rand(1, 8, 8)
    held = [text, first, [tokens.tokens, region]]
    before, shapes = tensors(held), shape(held)
    second = scene.apply(first, tokens, region=region, strength=2.0, curve="linear down")
    held.append(second)
    before_sampling, shapes_sampling = tensors(held), shape(held)
    scene.sample(second, negative=first, cfg=2.0)
    after = tensors(held)
    for old in (before, before_sampling):
        assert all(
            after[path][0] == number and torch.equal(after[path][1], value) for path, (number, value) in old.items()
        )
    assert shape(held) == shapes_sampling and shapes_sampling[:3] == shapes


def test_samplers_one_after_the_other(scene: Any) -> None:
    """In one graph: the same conditioning at two sizes, and another one between them."""
    conditioning, other = weighted(scene, curve="ease out"), weighted(scene, strength=2.0, region=torch.eye(8)[None])
    large = scene.comfy.empty_latent(192, 64)
    fresh = [scene.sample(weighted(scene, curve="ease out"), latent=latent) for latent in (None, large)]
    assert torch.equal(scene.sample(conditioning), fresh[0])
    between = scene.sample(other)
    assert torch.equal(scene.sample(conditioning, latent=large), fresh[1])
    assert torch.equal(scene.sample(other), between)
    assert torch.equal(scene.sample(conditioning), fresh[0])


def test_an_interrupt_leaves_nothing(scene: Any) -> None:
    from redux_control.nodes.host import override

    conditioning = weighted(scene, curve="linear down")
    expected = scene.sample(conditioning, steps=4)
    noise, latent = (torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (0, 1))

    def stop(step: int, *_: Any) -> None:
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample(
            scene.flux, noise, 4, 1.0, "euler", "simple", conditioning, scene.text, latent, callback=stop
        )
    assert getattr(override._local, "call", None) is None and torch.is_autocast_cache_enabled()
    assert torch.equal(scene.sample(scene.text), scene.sample(scene.text, scene.comfy.load_flux()))
    assert torch.equal(scene.sample(conditioning, steps=4), expected)


def test_an_error_in_the_model_leaves_nothing(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from redux_control.nodes.host import override

    def fail(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("no memory")

    conditioning = weighted(scene)
    expected = scene.sample(conditioning)
    monkeypatch.setattr(scene.flux.model.diffusion_model.single_blocks[1], "forward", fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        scene.sample(conditioning)
    monkeypatch.undo()
    assert getattr(override._local, "call", None) is None and torch.is_autocast_cache_enabled()
    assert torch.equal(scene.sample(conditioning), expected)


def own_attention(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with an attention of its own, as Nunchaku has."""
    import comfy.ldm.flux.layers as layers

    def attention(q: Any, k: Any, v: Any, pe: Any, mask: Any = None, transformer_options: Any = None) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    monkeypatch.setattr(layers, "attention", attention)


def test_a_model_that_cannot_weigh_is_named_once(scene: Any, monkeypatch: Any, caplog: Any) -> None:
    own_attention(scene, monkeypatch)
    both = scene.apply(weighted(scene), scene.tokens(2), region=torch.rand(1, 8, 8))
    with caplog.at_level(logging.WARNING):
        scene.sample(both, negative=scene.comfy.nodes.ConditioningZeroOut().zero_out(both)[0], cfg=2.0, steps=3)
    (record,) = [record for record in caplog.records if "Redux" in record.message]
    assert "does not use ComfyUI's attention, so strength" in record.message
    assert "what works here: start_percent and end_percent, Pool Reference" in record.message


def test_what_works_in_such_a_model_does_so_without_a_word(scene: Any, monkeypatch: Any, caplog: Any) -> None:
    own_attention(scene, monkeypatch)
    plain = scene.apply(scene.text, scene.tokens(), end_percent=0.5)
    with caplog.at_level(logging.WARNING):
        timed = scene.sample(plain, steps=4)
    assert relative(timed, scene.sample(scene.text, steps=4)) > 1e-3
    assert not caplog.records


def test_no_warning_where_the_weights_act(scene: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        scene.sample(weighted(scene))
        scene.sample(weighted(scene, start_percent=0.9), steps=2)  # never acts
        scene.sample(scene.apply(scene.text, scene.tokens()))
    assert not caplog.records


def test_a_node_that_cuts_the_text_leaves_the_reference(scene: Any) -> None:
    cut = [[cond[:, -4:], options] for cond, options in weighted(scene)]
    text = [[cond[:, -4:], options] for cond, options in scene.text]
    assert torch.equal(scene.sample(cut), scene.sample(scene.apply(text, scene.tokens(), strength=0.4)))


def test_a_control_that_was_taken_away_is_told(scene: Any, caplog: Any) -> None:
    bare = [[cond, {key: options[key] for key in options if key != "control"}] for cond, options in weighted(scene)]
    with caplog.at_level(logging.WARNING):
        result = scene.sample(bare, steps=1)
    assert "took the control away from a conditioning with a reference" in caplog.text
    assert torch.equal(result, scene.sample(scene.text, steps=1))


def test_a_deep_copy_acts_alike(scene: Any) -> None:
    conditioning = weighted(scene, curve="ease in", region=torch.eye(8)[None])
    expected = scene.sample(conditioning)
    assert torch.equal(scene.sample(copy.deepcopy(conditioning)), expected)
