"""Beside packs that patch the model: stand-ins for each kind, written for this; tiles are in test_tiles.

The truth is the same patch with a dense bias that knows nothing of the pack, or the sampling without the patch where
the patch changes nothing of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import comfy.ldm.flux.math
import comfy.patcher_extension
import pytest
import torch
from redux_scene import count_calls, make_bias, relative
from torch import Tensor

OPTIONS = {"strength": 0.3, "region": torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1))}
HERE = __name__.split(".")[0]  # as a pack would be named
BLOCKS = "double:0=0.5, single:1=3"


def weighted(scene: Any, **options: Any) -> list:
    return scene.apply(scene.text, scene.tokens(), **{**OPTIONS, **options})


def redux_lines(caplog: Any) -> list[str]:
    return [record.message for record in caplog.records if "Redux" in record.message]


def without_options(kinds: tuple[str, ...]) -> Callable[[dict, dict], dict]:
    """A `patches_replace` function that calls the block, but without transformer options."""

    def call(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return extra["original_block"]({**args, "transformer_options": {}})

    return call


def dropping(scene: Any, kinds: tuple[str, ...] = ("double_block", "single_block")) -> Any:
    """A model whose blocks of these kinds are called without transformer options."""
    model = scene.flux.clone()
    for kind in kinds:
        for index in range(2):
            model.set_model_patch_replace(without_options(kinds), "dit", kind, index)
    return model


def with_a_loop_of_its_own(scene: Any, monkeypatch: pytest.MonkeyPatch, skip: Callable[[int], bool]) -> None:
    """A forward that calls the blocks as old patches do; of some calls it takes the last result, as a cache does."""
    flux, calls = scene.flux.model.diffusion_model, []

    def forward(
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y: Tensor,
        *args: Any,
        **keys: Any,
    ) -> Tensor:
        from comfy.ldm.flux.layers import timestep_embedding

        guidance = args[0] if args else keys.get("guidance")
        img, txt = flux.img_in(img), flux.txt_in(txt)
        vec = flux.time_in(timestep_embedding(timesteps, 256).to(img.dtype))
        if flux.params.guidance_embed and guidance is not None:
            vec = vec + flux.guidance_in(timestep_embedding(guidance, 256).to(img.dtype))
        if flux.vector_in is not None:
            vec = vec + flux.vector_in(y[:, : flux.params.vec_in_dim])
        pe = flux.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
        calls.append(None)
        if not skip(len(calls)):
            for block in flux.double_blocks:
                img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
            joined = torch.cat((txt, img), dim=1)
            for block in flux.single_blocks:
                joined = block(joined, vec=vec, pe=pe)
            img = joined[:, txt.shape[1] :]
        return flux.final_layer(img, vec)

    monkeypatch.setattr(flux, "forward_orig", forward)


@pytest.mark.parametrize("options", [{}, {"blocks": BLOCKS}, {"region": None, "end_percent": 0.5}])
@pytest.mark.parametrize("kinds", [("double_block", "single_block"), ("double_block",), ("single_block",)])
def test_blocks_that_are_called_without_options(scene: Any, kinds: Any, options: dict[str, Any], caplog: Any) -> None:
    expected = scene.sample(weighted(scene, **options))
    with caplog.at_level(logging.WARNING):
        mine = scene.sample(weighted(scene, **options), dropping(scene, kinds))
    assert relative(mine, expected) < 1e-6 and not redux_lines(caplog)
    assert not hasattr(comfy.ldm.flux.math.optimized_attention, "redux_original"), "nothing of it stays"


def test_a_forward_of_another_pack(scene: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    expected = scene.sample(weighted(scene, blocks=BLOCKS))
    with_a_loop_of_its_own(scene, monkeypatch, lambda _: False)
    with caplog.at_level(logging.WARNING):
        assert relative(scene.sample(weighted(scene, blocks=BLOCKS)), expected) < 1e-6
    assert not redux_lines(caplog)


def test_a_cache_that_skips_calls(scene: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Calls that it skips have no attention to weigh, which is no loss."""
    tokens = scene.tokens()
    with_a_loop_of_its_own(scene, monkeypatch, lambda call: call % 2 == 0)
    with caplog.at_level(logging.WARNING):
        mine = scene.sample(scene.apply(scene.text, tokens, strength=0.3), steps=4)
    monkeypatch.undo()
    with_a_loop_of_its_own(scene, monkeypatch, lambda call: call % 2 == 0)
    bias = make_bias(16 + 8 + 64, [(0, 16, 0.3)], 16)
    attention = comfy.ldm.flux.math.optimized_attention

    def biased(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **keys: Any) -> Tensor:
        return attention(q, k, v, heads, mask=bias.to(q), **keys)

    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", biased)
    dense = scene.sample(scene.plain(tokens), steps=4)
    assert relative(mine, dense) < 1e-5 and not redux_lines(caplog)


def test_attention_in_other_threads_passes(scene: Any) -> None:
    """While a call runs, another thread's attention comes the same way and is not weighed."""
    q = torch.randn(1, 3, 88, 128)
    expected = comfy.ldm.flux.math.optimized_attention(q, q, q, 3, skip_reshape=True)
    results: list[Tensor] = []

    def elsewhere() -> None:
        with torch.inference_mode():
            routed = comfy.ldm.flux.math.optimized_attention
            assert hasattr(routed, "redux_original")
            results.append(routed(q, q, q, 3, skip_reshape=True))

    model = scene.flux.clone()

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return executor(*args, **kwargs)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "other", wrapper)
    scene.sample(weighted(scene), model, steps=1)
    assert torch.equal(results[0], expected)


def test_attention_of_another_length_passes(scene: Any, caplog: Any) -> None:
    """Patches that guide in attention have a negative of their own there, without the reference."""
    expected, model, results = scene.sample(weighted(scene)), scene.flux.clone(), []
    negative = torch.randn(1, 2, 8 + 64, 128, generator=torch.Generator().manual_seed(2))
    plain = comfy.ldm.flux.math.optimized_attention(*3 * [negative], 2, skip_reshape=True)

    def beside(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        results.append(comfy.ldm.flux.math.optimized_attention(*3 * [negative], 2, skip_reshape=True))
        return extra["original_block"](args)

    model.set_model_patch_replace(beside, "dit", "double_block", 0)
    with caplog.at_level(logging.WARNING):
        assert relative(scene.sample(weighted(scene), model), expected) < 1e-6 and not redux_lines(caplog)
    assert len(results) == 2 and all(torch.equal(result, plain) for result in results)


@pytest.mark.parametrize(("kinds", "served"), [(("double_block",), 2), (("single_block",), 1)])
def test_attention_that_some_blocks_do_in_their_own_way_is_told(
    scene: Any, caplog: Any, kinds: tuple[str, ...], served: int
) -> None:
    """With numbers, and with the name of the patch."""
    model = scene.flux.clone()

    def replaced(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        def plain(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

        routed = comfy.ldm.flux.math.optimized_attention
        comfy.ldm.flux.math.optimized_attention = plain
        try:
            return extra["original_block"](args)
        finally:
            comfy.ldm.flux.math.optimized_attention = routed

    for kind in kinds:
        for index in range(2):
            model.set_model_patch_replace(replaced, "dit", kind, index)
    with caplog.at_level(logging.WARNING):
        scene.sample(weighted(scene), model, steps=2)
    (line,) = redux_lines(caplog)
    assert f"only {served} of 3 attentions" in line and f"({HERE})" in line


def test_the_patch_that_takes_all_attention_is_named(scene: Any, monkeypatch: Any, caplog: Any) -> None:
    import comfy.ldm.flux.layers as layers

    def attention(
        q: Tensor, k: Tensor, v: Tensor, pe: Any, mask: Any = None, transformer_options: Any = None
    ) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    monkeypatch.setattr(layers, "attention", attention)
    with_a_loop_of_its_own(scene, monkeypatch, lambda _: False)
    with caplog.at_level(logging.WARNING):
        scene.sample(weighted(scene), steps=1)
    (line,) = redux_lines(caplog)
    assert f"does not use ComfyUI's attention ({HERE}), so strength" in line


def ignoring(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An override that chooses its own attention and does not call the one it is given, as core's node does."""
    return lambda func, *args, **kwargs: attention(*args, **kwargs)


def test_an_override_that_ignores_its_function(scene: Any, caplog: Any) -> None:
    """The picture is that of the weights; the log says whose attention is left out."""
    from comfy.ldm.modules.attention import attention_pytorch

    expected, model = scene.sample(weighted(scene)), scene.flux.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = ignoring(attention_pytorch)
    with caplog.at_level(logging.INFO):
        assert relative(scene.sample(weighted(scene), model), expected) < 1e-6
    assert any(f"the attention of {HERE} is left out" in line for line in redux_lines(caplog))
    assert relative(scene.sample(scene.text, model), scene.sample(scene.text)) < 1e-6


def test_guidance_in_attention_sees_both_sides(scene: Any) -> None:
    """Core's NAGuidance mixes the rows of prompt and negative, which have to be in one call."""
    nag = pytest.importorskip("comfy_extras.nodes_nag").NAGuidance
    tokens, other = scene.tokens(), scene.comfy.conditioning(seed=5)
    positive, negative = (scene.apply(text, tokens, strength=0.3) for text in (scene.text, other))
    model, calls = count_calls(nag.execute(scene.flux, 5.0, 0.5, 1.5).args[0])
    mine = scene.sample(positive, model, negative=negative)
    assert [call["batch"] for call in calls] == [2, 2]
    dense = scene.dense_model(
        make_bias(16 + 8 + 64, [(0, 16, 0.3)], 16), nag.execute(scene.flux, 5.0, 0.5, 1.5).args[0]
    )
    assert relative(mine, scene.sample(scene.plain(tokens), dense, negative=scene.plain(tokens, text=other))) < 1e-5
    assert relative(mine, scene.sample(positive, negative=negative)) > 1e-2
