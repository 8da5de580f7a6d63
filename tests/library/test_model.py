"""A model's life: freed at once, copied, pickled, saved, and its CUDA graph forgotten when a weight moves."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import redux


@pytest.fixture
def own(files: tuple[Path, Path]) -> redux.ReduxModel:
    return redux.ReduxModel.load(*files, dtype=torch.float32)


def test_a_deleted_model_is_freed_at_once(own: redux.ReduxModel, files: tuple[Path, Path]) -> None:
    model = redux.ReduxModel.load(*files)
    assert model._graph is not None
    freed = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert freed() is None
    finally:
        gc.enable()


def through_torch(model: redux.ReduxModel) -> redux.ReduxModel:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), through_torch])  # noqa: S301
def test_copies(own: redux.ReduxModel, photo: Callable[..., Tensor], way: Callable[[Any], redux.ReduxModel]) -> None:
    other = way(own)
    assert torch.equal(other.encode(photo(60, 50)).tokens, own.encode(photo(60, 50)).tokens)
    assert (other.encoder, other.dtype) == (own.encoder, own.dtype)
    assert other._graph is not None and other._graph is not own._graph
    place = [weight.data_ptr() for weight in other.parameters()]
    monkey = own.tower.norm.weight.data_ptr()
    assert monkey not in place and other._addresses() is None, "its graph looks at its own weights"


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: model.tower.half(),
        lambda model: model.tower.blocks[0].to(torch.float64),
        lambda model: model.projector.load_state_dict(
            {key: value.clone() for key, value in model.projector.state_dict().items()}, assign=True
        ),
        lambda model: setattr(model.tower.norm, "weight", torch.nn.Parameter(torch.ones(128))),
    ],
)
def test_moved_weights_forget_the_graph(
    own: redux.ReduxModel, change: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the captured graph on weights that say they are on a GPU."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True), raising=False)
    graphed, pixels = own._graph, torch.zeros(1, 3, 112, 112)
    assert graphed is not None
    assert not graphed.is_current(pixels) and graphed.is_current(pixels)
    waited: list[bool] = []
    graphed.graph, graphed.done = object(), SimpleNamespace(synchronize=lambda: waited.append(True))  # type: ignore
    assert graphed.is_current(pixels) and graphed.graph is not None
    change(own)
    assert not graphed.is_current(pixels)
    assert graphed.graph is None and waited == [True]
    assert graphed.is_current(pixels)


@pytest.mark.parametrize("prefix", ["model.", "image_embedder."])
def test_a_projector_whose_keys_have_a_prefix(
    files: tuple[Path, Path], write: Callable[..., Path], photo: Callable[..., Tensor], prefix: str
) -> None:
    with safe_open(files[1], "pt") as file:
        metadata, weights = file.metadata(), {prefix + key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    other = redux.ReduxModel.load(files[0], write("prefixed.safetensors", weights, metadata), dtype=torch.float32)
    own = redux.ReduxModel.load(*files, dtype=torch.float32)
    assert torch.equal(other.encode(photo(40, 40)).tokens, own.encode(photo(40, 40)).tokens)
