"""The model on a REDUX_MODEL wire under ComfyUI's memory management."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import comfy.model_management as memory
import core_redux
import pytest
import torch
from comfy import memory_management, model_patcher, utils
from comfy.cli_args import args
from redux_scene import relative


def load(comfy: Any, redux_nodes: Any, dtype: str = "fp32") -> Any:
    return redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, dtype).args[0]


def encode(redux_nodes: Any, model: Any, image: torch.Tensor, **fit: Any) -> torch.Tensor:
    return redux_nodes["ReduxEncode"].execute(model, image, fit or {"fit": "stretch"}).args[0].tokens


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 60, 80, 3, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def expected(comfy: Any, redux_nodes: Any, image: torch.Tensor) -> torch.Tensor:
    return encode(redux_nodes, load(comfy, redux_nodes), image)


def is_loaded(model: Any) -> bool:
    return any(entry.model is model.patcher for entry in memory.current_loaded_models)


def test_comfyui_recognises_the_object(comfy: Any, redux_nodes: Any) -> None:
    model = load(comfy, redux_nodes)
    assert isinstance(model.patcher, model_patcher.ModelPatcher)
    assert model.patcher.model_size() == sum(p.numel() * 4 for p in model.model.parameters())
    recognise = getattr(model_patcher, "is_model_patcher_output", None)  # what the cache asks, from 0.24 on
    if recognise is not None:
        assert recognise(model)


def test_encoding_loads_once(comfy: Any, redux_nodes: Any, image: torch.Tensor, caplog: Any) -> None:
    model = load(comfy, redux_nodes)
    assert not is_loaded(model)
    with caplog.at_level("INFO"):
        first = encode(redux_nodes, model, image)
        assert is_loaded(model)
        model.kept.clear()
        second = encode(redux_nodes, model, image)
    assert sum("Requested to load ReduxModel" in record.message for record in caplog.records) == 1
    assert torch.equal(first, second)


def test_what_was_encoded_before_is_not_encoded_again(
    comfy: Any, redux_nodes: Any, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its content and the fit, however it comes; tokens are kept up to a number of bytes, and no model is loaded."""
    from redux_control.nodes.host import model as module

    model, passes = load(comfy, redux_nodes), []
    model.model.register_forward_hook(lambda *_: passes.append(1))
    first = encode(redux_nodes, model, image)
    memory.unload_all_models()
    assert torch.equal(encode(redux_nodes, model, image.clone()), first) and len(passes) == 1
    assert not is_loaded(model)
    encode(redux_nodes, model, image, fit="pad")
    encode(redux_nodes, model, image.flip(2))
    masked = redux_nodes["ReduxEncode"].execute(model, image, {"fit": "stretch"}, torch.ones(2, 60, 80)).args[0]
    assert len(passes) == 4 and masked.coverage is not None
    monkeypatch.setattr(module, "KEPT_BYTES", 2 * first.nbytes)
    encode(redux_nodes, model, image)
    assert len(model.kept) == 2 and len(passes) == 4
    encode(redux_nodes, model, image.flip(2))
    assert len(passes) == 5


def test_unloaded_by_comfyui_it_comes_back(
    comfy: Any, redux_nodes: Any, image: torch.Tensor, expected: torch.Tensor
) -> None:
    model = load(comfy, redux_nodes)
    encode(redux_nodes, model, image)
    for _ in range(2):
        memory.unload_all_models()
        model.kept.clear()
        assert not is_loaded(model)
        assert torch.equal(encode(redux_nodes, model, image), expected)
        assert is_loaded(model)


def test_nothing_stays_when_the_object_goes(comfy: Any, redux_nodes: Any, image: torch.Tensor) -> None:
    model = load(comfy, redux_nodes)
    encode(redux_nodes, model, image)
    inner, patcher = weakref.ref(model.model), weakref.ref(model.patcher)
    del model
    gc.collect()
    memory.cleanup_models_gc()
    assert inner() is None and patcher() is None


DTYPES = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 1e-2, "fp8_e4m3fn": 7e-2, "default": 2e-3}


def kept_in(model: Any) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of the layers' matrices, and that of all other weights: of fp8, only matrices are kept in it."""
    layers = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    matrices = {id(layer.weight) for layer in layers}
    (large,) = {layer.weight.dtype for layer in layers}
    (small,) = {weight.dtype for weight in model.model.parameters() if id(weight) not in matrices}
    return large, small


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(comfy: Any, redux_nodes: Any, image: torch.Tensor, expected: torch.Tensor, dtype: str) -> None:
    """Weights are kept in the dtype and cast at use; a CPU computes in fp32 whatever it is."""
    model = load(comfy, redux_nodes, dtype)
    named = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "default": torch.float16}
    assert kept_in(model) == (named.get(dtype, torch.float8_e4m3fn), named.get(dtype, torch.float32))
    found = encode(redux_nodes, model, image)
    assert found.dtype == torch.float32 and bool(torch.isfinite(found).all())
    assert relative(found, expected) <= DTYPES[dtype]
    assert model.model.encoder == load(comfy, redux_nodes).model.encoder, "the name of the weights knows no dtype"


@pytest.mark.parametrize("spread", [1e-4, 4e-3, 0.02, 3.0])
@pytest.mark.parametrize("shape", [(3456, 1152), (1152, 4304), (12288, 1152)], ids=str)
def test_fp8_keeps_small_weights(pack: Any, spread: float, shape: tuple[int, int]) -> None:
    """At the sizes of the real tower and projector, whose weights lie around 0.02 and differ from row to row."""
    generator = torch.Generator().manual_seed(1)
    weight_OI = torch.randn(shape, generator=generator) * spread * torch.logspace(-1, 1, shape[0])[:, None]
    fp8 = pack.nodes.host.fp8
    for dtype, bound in ((torch.float8_e4m3fn, 0.03), (torch.float8_e5m2, 0.06)):
        stored_OI, scale_O = fp8.scale_rows(weight_OI, dtype)
        assert stored_OI.dtype == dtype and stored_OI.float().isfinite().all()
        for compute in (torch.float32, torch.bfloat16):
            found_OI = fp8.RowScale(scale_O)(stored_OI.to(compute)).float()
            errors_O = (found_OI - weight_OI).norm(dim=1) / weight_OI.norm(dim=1)
            assert float(errors_O.max()) < bound
        again_OI, scale_O = fp8.scale_rows(found_OI, dtype)
        assert torch.equal(fp8.RowScale(scale_O)(again_OI.float()), found_OI), "what was fp8 stays as it is"


def test_fp8_comes_and_goes(comfy: Any, redux_nodes: Any, image: torch.Tensor, expected: torch.Tensor) -> None:
    """The scales act once, however often and however much of the model is loaded."""
    model = load(comfy, redux_nodes, "fp8_e4m3fn")
    first = encode(redux_nodes, model, image)
    for room in (200_000, 0, 1 << 40):
        memory.unload_all_models()
        model.patcher.partially_load(model.patcher.load_device, room)
        model.patcher.partially_load(model.patcher.load_device, room)
        model.kept.clear()
        assert torch.equal(encode(redux_nodes, model, image), first)
    assert relative(first, expected) < DTYPES["fp8_e4m3fn"]


FLAGS = {
    "fp8_e4m3fn_text_enc": torch.float8_e4m3fn,
    "fp8_e5m2_text_enc": torch.float8_e5m2,
    "bf16_text_enc": torch.bfloat16,
    "fp32_text_enc": torch.float32,
}


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_of_text_encoders_are_heeded(
    comfy: Any, redux_nodes: Any, image: torch.Tensor, expected: torch.Tensor, flag: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(args, flag, True)
    model = load(comfy, redux_nodes, "default")
    assert kept_in(model) == (FLAGS[flag], FLAGS[flag] if FLAGS[flag].itemsize > 1 else torch.float32)
    assert relative(encode(redux_nodes, model, image), expected) < 0.2


def test_weights_that_do_not_fit_are_cast_at_use(
    comfy: Any, redux_nodes: Any, image: torch.Tensor, expected: torch.Tensor
) -> None:
    """What ComfyUI does on a small card: a part of the layers stays behind and comes when its turn is."""
    model = load(comfy, redux_nodes)
    model.patcher.partially_load(model.patcher.load_device, 200_000)
    lazy = [module for module in model.model.modules() if getattr(module, "comfy_cast_weights", False)]
    assert lazy
    tokens = model.model.encode_views(
        model.model.views(image, device=model.patcher.load_device), device=model.patcher.load_device
    )
    assert relative(tokens.tokens.cpu(), expected) < 1e-6


def test_dynamic_memory(comfy: Any, redux_nodes: Any, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patcher that ComfyUI puts in place on GPUs, on its load path of the CPU: weights come with the file.

    On a GPU, with dynamic memory as main.py starts it: tools/gpu.py.
    """
    host_buffer = pytest.importorskip("comfy_aimdo.host_buffer")
    monkeypatch.setattr(memory, "text_encoder_device", lambda: torch.device("cpu"))
    expected = encode(redux_nodes, load(comfy, redux_nodes), image)

    def dynamic(model: Any, load_device: Any, offload_device: Any) -> Any:
        patcher = object.__new__(model_patcher.ModelPatcherDynamic)  # its constructor avoids CPUs
        patcher.__init__(model, load_device, offload_device)
        return patcher

    class NoPinnedMemory:
        size = 0

        def __init__(self, *_: Any) -> None: ...

    monkeypatch.setattr(host_buffer, "HostBuffer", NoPinnedMemory)
    monkeypatch.setattr(memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(model_patcher, "CoreModelPatcher", dynamic)
    monkeypatch.setattr(memory, "current_loaded_models", [])
    model = load(comfy, redux_nodes)
    assert type(model.patcher).__name__ == "ModelPatcherDynamic" and model.patcher.is_dynamic()
    assert torch.equal(encode(redux_nodes, model, image), expected)
    assert torch.equal(encode(redux_nodes, model, image), expected)
    assert len(memory.current_loaded_models) == 1
    hidden_BNV = torch.randn(2, 64, comfy.sizes.vision_hidden)
    style = core_redux.style_model(comfy)
    before = {key: value.clone() for key, value in style.model.state_dict().items()}
    tokens = redux_nodes["ReduxFromClipVision"].execute(style, {"last_hidden_state": hidden_BNV}).args[0]
    assert relative(tokens.tokens, style.model(hidden_BNV)) < 1e-6
    assert all(torch.equal(value, before[key]) for key, value in style.model.state_dict().items())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_device_fast_in_half_precision(
    comfy: Any, redux_nodes: Any, image: torch.Tensor, expected: torch.Tensor, half: torch.dtype, monkeypatch: Any
) -> None:
    """As on a GPU: pixels and activations in bf16, or fp16 where there is no bf16, and finite."""
    monkeypatch.setattr(memory, "should_use_bf16", lambda *_, **__: half == torch.bfloat16)
    monkeypatch.setattr(memory, "should_use_fp16", lambda *_, **__: True)
    monkeypatch.setattr(memory, "text_encoder_device", lambda: torch.device("cpu"))
    model = load(comfy, redux_nodes, "default")
    assert model.model.dtype == half
    assert relative(encode(redux_nodes, model, image), expected) < 2e-2


def test_results_lie_where_comfyui_wants_them(
    comfy: Any, redux_nodes: Any, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "intermediate_dtype", lambda: torch.float16)  # --fp16-intermediates
    assert encode(redux_nodes, load(comfy, redux_nodes), image).dtype == torch.float16


def record_progress(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(
        utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: steps.append((value, total)), raising=True
    )
    return steps


def test_progress(comfy: Any, redux_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step for each pass of the tower, of at most 16 pictures; one pass needs no bar."""
    model, steps = load(comfy, redux_nodes), record_progress(monkeypatch)
    encode(redux_nodes, model, torch.rand(16, 40, 40, 3))
    assert steps == []
    encode(redux_nodes, model, torch.rand(40, 40, 40, 3))
    assert steps[-1] == (3, 3) and steps == sorted(steps)
    steps.clear()
    encode(redux_nodes, model, torch.rand(2, 40, 40, 3), fit="tiles", rows=2, columns=2, token_budget=1458)
    assert steps[-1] == (5, 5)


def test_interrupt(comfy: Any, redux_nodes: Any, image: torch.Tensor, expected: torch.Tensor) -> None:
    """Cancelled while many pictures are read: it ends after the pass at work, and everything can go on."""
    model = load(comfy, redux_nodes)
    passes = []
    handle = model.model.register_forward_hook(lambda *_: passes.append(1) or memory.interrupt_current_processing())
    try:
        with pytest.raises(memory.InterruptProcessingException):
            encode(redux_nodes, model, torch.rand(64, 40, 40, 3))
    finally:
        handle.remove()
    assert len(passes) == 1
    assert not memory.processing_interrupted(), "the next run is not interrupted, too"
    assert torch.equal(encode(redux_nodes, model, image), expected)


def test_interrupt_of_the_projector(comfy: Any, redux_nodes: Any) -> None:
    memory.interrupt_current_processing()
    hidden_BNV = torch.randn(40, 64, comfy.sizes.vision_hidden)
    with pytest.raises(memory.InterruptProcessingException):
        redux_nodes["ReduxFromClipVision"].execute(core_redux.style_model(comfy), {"last_hidden_state": hidden_BNV})
