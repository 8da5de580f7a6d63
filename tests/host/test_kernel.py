"""Which kernel an attention of this host uses, told by names alone."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.ldm.modules.attention as core
import pytest
import torch
from redux_scene import relative
from torch import Tensor

# Which kernel is the faster one is made up for the CPU's.
cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="the stand-ins are compared with the CPU's kernel")


def make_override(function: Any) -> Any:
    """As packs patch a model: a function in a function."""

    def new_attention(q: Any, k: Any, v: Any, heads: int, **_: Any) -> Any:
        return function(q, k, v)

    def override(func: Any, *args: Any, **kwargs: Any) -> Any:
        return new_attention(*args, **kwargs)

    return override


def sageattn_qk_int8_pv_fp16_cuda(*_: Any) -> None: ...
def sageattn3_blackwell(*_: Any) -> None: ...
def flash_attn_func(*_: Any) -> None: ...
def anything(*_: Any) -> None: ...


def in_core(kernel: Any) -> Any:
    """An attention as ComfyUI's own are, around a kernel (q, k, v, scale, bias)."""

    def attention(
        q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, attn_precision: Any = None,
        skip_reshape: bool = False, skip_output_reshape: bool = False, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        assert skip_reshape
        out = kernel(q, k, v, kwargs.get("scale"), mask)
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)

    return attention


def attention_comfy_kitchen_int8(*args: Any, **kwargs: Any) -> Tensor:
    """Exact, and called by the name of the host's."""
    return in_core(int8_attention)(*args, **kwargs)


def attention3_sage(*args: Any, **kwargs: Any) -> Tensor:
    """Takes no mask, and says so as the host's does."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, scale: Any, bias: Any) -> Tensor:
        if q.shape[-1] > 128:
            logging.error("Error running SageAttention3: %s, falling back to pytorch attention.", "head size")
        assert bias is None
        return int8_attention(q, k, v, scale, bias)

    return in_core(kernel)(*args, **kwargs)


def int8_attention(q: Tensor, k: Tensor, v: Tensor, scale: Any, bias: Any) -> Tensor:
    SEEN.append((q.shape[2], k.shape[2], q.shape[3], bias is not None))
    CLOCK.append(1.0 if q.shape[3] == 128 else 2.0)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


SEEN: list[tuple[int, int, int, bool]] = []
CLOCK: list[float] = []
BY_FLAG, BY_NODE = "flag", "node"


@pytest.fixture
def chosen(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of a host that was told to use this attention; nothing is measured yet.

    By a clock that only kernels move ours takes 10 s a call, and the stand-in 1 s.
    """
    from redux_control.redux.attention import backends, choice

    kernel = backends.KERNELS["cpu"]
    late = replace(kernel, run=lambda *args: CLOCK.append(10.0) or kernel.run(*args))
    monkeypatch.setitem(backends.KERNELS, "cpu", late)
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: sum(CLOCK)))
    monkeypatch.setattr(choice, "_measured", {})
    monkeypatch.setattr(backends, "_verdicts", dict(backends._verdicts))
    monkeypatch.setattr(backends, "_announced", set())
    SEEN.clear()

    def choose(attention: Any, how: str) -> Any:
        model = scene.flux.clone()
        wrapped = core.wrap_attn(attention)
        if how == BY_FLAG:
            monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", wrapped)
        else:  # as ComfyUI's Model Attention Backend does it
            override = lambda _, *args, **kwargs: wrapped(*args, **kwargs)  # noqa: E731
            model.model_options["transformer_options"]["optimized_attention_override"] = override
        return model

    return choose


REGION = torch.zeros(1, 16, 16)
REGION[..., :8] = 1
SETTINGS = {
    "weight": ({"strength": 0.4}, True),
    "even": ({"strength": 0.4, "response": "even"}, False),
    "region": ({"strength": 0.4, "region": REGION}, False),
    "even, region": ({"strength": 0.4, "response": "even", "region": REGION}, False),
}


@cpu_only
@pytest.mark.parametrize("how", [BY_FLAG, BY_NODE])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_hosts_int8_serves_weighted_steps(
    scene: Any, chosen: Any, how: str, settings: str, caplog: pytest.LogCaptureFixture
) -> None:
    options, biased = SETTINGS[settings]
    conditioning = scene.apply(scene.text, scene.tokens(), **options)
    expected = scene.sample(conditioning)
    model = chosen(attention_comfy_kitchen_int8, how)
    with caplog.at_level(logging.INFO):
        found = scene.sample(conditioning, model)
        measured = len(SEEN)
        again = scene.sample(conditioning, model)
    assert relative(found, expected) < 1e-5 and relative(again, expected) < 1e-5
    assert 0 < len(SEEN) - measured < measured, "measured once, and used"
    assert any(bias for *_, bias in SEEN[measured:]) == biased
    lines = [record.message for record in caplog.records if "backend" in record.message]
    assert any("comfy-kitchen INT8 of the host" in line and "ms by cpu" in line for line in lines)


def prefers(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """As newer ComfyUI: every attention is handed what the checkpoint prefers, and an override comes first."""
    preferred, pytorch = SimpleNamespace(function=core.wrap_attn(function)), core.attention_pytorch

    def optimized_attention(*args: Any, **kwargs: Any) -> Tensor:
        asked = kwargs.pop("preferred_attention", None)
        override = kwargs["transformer_options"].get("optimized_attention_override")
        kwargs["_inside_attn_wrapper"] = True
        return (
            override(pytorch, *args, **kwargs) if override else (asked.function if asked else pytorch)(*args, **kwargs)
        )

    def attention(
        q: Tensor, k: Tensor, v: Tensor, pe: Tensor, mask: Any = None, transformer_options: Any = None
    ) -> Tensor:
        q, k = comfy.ldm.flux.math.apply_rope(q, k, pe)
        keys = {"mask": mask, "transformer_options": transformer_options, "preferred_attention": preferred}
        return comfy.ldm.flux.math.optimized_attention(q, k, v, q.shape[1], skip_reshape=True, **keys)

    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", optimized_attention)
    monkeypatch.setattr(comfy.ldm.flux.layers, "attention", attention)


@cpu_only
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_what_a_checkpoint_prefers_is_known(
    scene: Any, chosen: Any, monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    conditioning = scene.apply(scene.text, scene.tokens(), strength=strength)
    expected = scene.sample(conditioning)
    prefers(monkeypatch, attention_comfy_kitchen_int8)
    scene.sample(conditioning)
    SEEN.clear()
    assert relative(scene.sample(conditioning), expected) < 1e-5
    assert SEEN and any(bias for *_, bias in SEEN) == (strength < 1)


@cpu_only
def test_sage_3_serves_what_it_can(scene: Any, chosen: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whole calls; augmented heads are too wide for it, which it logs and computes in another way: ours is used."""
    even = scene.apply(scene.text, scene.tokens(), strength=0.4, response="even")
    weight = scene.apply(scene.text, scene.tokens(), strength=0.4)
    expected = scene.sample(even), scene.sample(weight)
    model = chosen(attention3_sage, BY_FLAG)
    with caplog.at_level(logging.INFO):
        assert relative(scene.sample(even, model), expected[0]) < 1e-5
        assert {size for *_, size, _ in SEEN} == {128}
        SEEN.clear()
        assert relative(scene.sample(weight, model), expected[1]) < 1e-5
        of_steps = [call for call in SEEN if call[2] == 128]
        scene.sample(weight, model)
    assert of_steps and [call for call in SEEN if call[2] == 128] == of_steps, "tried, and then left alone"
    even_line, weight_line = (record.message for record in caplog.records if "backend" in record.message)
    assert "backend SageAttention 3 of the host, whole calls (" in even_line
    assert "SageAttention 3 is not used: augmented heads: " in weight_line and "head size" in weight_line


@cpu_only
@pytest.mark.parametrize("how", [BY_FLAG, BY_NODE])
def test_unweighted_steps_are_the_hosts_as_ever(scene: Any, chosen: Any, how: str) -> None:
    model = chosen(attention_comfy_kitchen_int8, how)
    scene.sample(scene.apply(scene.text, scene.tokens(), strength=1.0), model)
    assert len(SEEN) == 6 and not any(bias for *_, bias in SEEN)


CASES = [
    ("attention_sage", "sage"),
    ("attention3_sage", "SageAttention 3"),
    ("attention_comfy_kitchen_int8", "comfy-kitchen INT8"),
    ("attention_flash", "flash_attn"),
    ("attention_xformers", "xformers"),
    ("attention_pytorch", None),
    ("attention_split", None),
    ("attention_sub_quad", None),
    ("attention_basic", None),
]


@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_the_hosts_own(pack: ModuleType, name: str, kernel: str | None) -> None:
    from redux_control.nodes.host.kernel import named_kernel

    if not hasattr(core, name):
        pytest.skip(f"this ComfyUI has no {name}")
    function = getattr(core, name)
    assert named_kernel(function) == kernel
    assert named_kernel(make_override(function)) == kernel


def test_patches_of_other_packs(pack: ModuleType) -> None:
    from redux_control.nodes.host.kernel import named_kernel

    assert named_kernel(make_override(sageattn_qk_int8_pv_fp16_cuda)) == "sage"
    assert named_kernel(make_override(partial(sageattn_qk_int8_pv_fp16_cuda, None))) == "sage"
    assert named_kernel(make_override(sageattn3_blackwell)) == "SageAttention 3"
    assert named_kernel(make_override(attention_comfy_kitchen_int8)) == "comfy-kitchen INT8"
    assert named_kernel(make_override(flash_attn_func)) == "flash_attn"
    assert named_kernel(make_override(anything)) is None
    assert named_kernel(len) is None


def test_a_patch_with_a_known_kernel_has_it_tried(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from redux_control.nodes.host import override

    asked: list[str | None] = []
    attention = override.weighted_attention

    def watch(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["kernel"])
        return attention(*args, **kwargs)

    def sage_patch(func: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
        return q.new_zeros(len(q), q.shape[2], q.shape[1] * q.shape[3])

    monkeypatch.setattr(override, "weighted_attention", watch)
    model = scene.flux.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = sage_patch
    scene.sample(scene.apply(scene.text, scene.tokens(), strength=0.4), model)
    assert asked == ["sage"] * 6
    asked.clear()
    scene.sample(scene.apply(scene.text, scene.tokens(), strength=0.4))
    assert asked == [None] * 6
