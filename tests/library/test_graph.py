"""The CUDA graph gives what the model gives, whatever is called in between. Runs where there is a CUDA device.

Shapes: B pictures, Y x X pixels, C channels, N tokens, D width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import redux
from redux.cuda_graph import GraphedForward
from tools import checkpoints

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available() or torch.version.hip is not None, reason="needs CUDA")
pytestmark = needs_cuda

Photo = Callable[..., Tensor]


@pytest.fixture
def cuda_model(files: tuple[Path, Path]) -> redux.ReduxModel:
    return redux.ReduxModel.load(*files, dtype=torch.bfloat16, device="cuda")


def eager(model: redux.ReduxModel, images: Tensor, **options: object) -> Tensor:
    views = model.views(images, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        return torch.cat([model(view.pixels_BCST.to("cuda", model.dtype)) for view in views], dim=1)


def captured(model: redux.ReduxModel) -> torch.cuda.CUDAGraph | None:
    assert model._graph is not None
    return model._graph.graph


def test_graph_equals_eager_again_and_again(cuda_model: redux.ReduxModel, photo: Photo) -> None:
    images = [photo(90, 120, seed=seed) for seed in range(6)]
    expected = [eager(cuda_model, image) for image in images]
    found = [cuda_model.encode(image).tokens for image in images]
    assert captured(cuda_model) is not None
    for ours, theirs in zip(found, expected, strict=True):  # compared at the end: no result was written over
        assert torch.equal(ours, theirs)
        assert not ours.is_inference()


def test_alternating_shapes_and_batches(cuda_model: redux.ReduxModel, photo: Photo) -> None:
    """Tiles are several views of one shape; native changes the shape; a batch goes past the graph."""
    for seed in range(3):
        for height, fit, batch in ((90, "stretch", 1), (60, "native", 1), (90, "tiles", 1), (90, "stretch", 3)):
            image = photo(height, 120, batch=batch, seed=seed)
            assert torch.equal(cuda_model.encode(image, fit=fit).tokens, eager(cuda_model, image, fit=fit))


def test_a_batch_with_one_picture_left_over(cuda_model: redux.ReduxModel, photo: Photo) -> None:
    images = photo(60, 60, batch=17)
    for _ in range(3):
        found = cuda_model.encode(images).tokens
        assert (found - eager(cuda_model, images)).float().norm() < 2e-2 * found.float().norm()


def test_two_models_do_not_mix(files: tuple[Path, Path], tmp_path: Path, photo: Photo) -> None:
    names = checkpoints.write_checkpoints(tmp_path, seed=5)
    other_files = tmp_path / "clip_vision" / names.clip_vision, tmp_path / "style_models" / names.style_models
    models = [redux.ReduxModel.load(*pair, device="cuda") for pair in (files, other_files)]
    for seed in range(4):
        image = photo(80, 80, seed=seed)
        for model in models:
            assert torch.equal(model.encode(image).tokens, eager(model, image))


def test_a_moved_model_is_captured_anew(cuda_model: redux.ReduxModel, photo: Photo) -> None:
    image = photo(80, 80)
    expected = [cuda_model.encode(image).tokens for _ in range(3)][-1]
    cuda_model.to("cpu")
    assert captured(cuda_model) is None
    filler = [torch.randn(2**20, device="cuda") for _ in range(8)]  # takes the weights' old addresses
    cuda_model.to("cuda")
    for _ in range(3):
        assert torch.equal(cuda_model.encode(image).tokens, expected)
    assert captured(cuda_model) is not None and len(filler) == 8


def test_a_model_loaded_on_the_cpu_and_moved(files: tuple[Path, Path], photo: Photo) -> None:
    model = redux.ReduxModel.load(*files, dtype=torch.float32)
    image = photo(80, 80)
    expected = [model.encode(image).tokens for _ in range(3)][-1]
    assert captured(model) is None
    model.to("cuda")
    for _ in range(3):
        found = model.encode(image).tokens.cpu()
        assert (found - expected).norm() < 5e-3 * expected.norm()  # TF32 may serve fp32 on a GPU


def test_inside_and_outside_of_inference_mode(cuda_model: redux.ReduxModel, photo: Photo) -> None:
    image = photo(80, 80)
    expected = eager(cuda_model, image)
    for _ in range(2):
        with torch.inference_mode():
            assert torch.equal(cuda_model.encode(image).tokens, expected)
            assert torch.equal(cuda_model.encode(image).tokens, expected)
        assert torch.equal(cuda_model.encode(image).tokens, expected)


def test_threads_and_streams(cuda_model: redux.ReduxModel, photo: Photo) -> None:
    images = [photo(80, 80, seed=seed) for seed in range(4)]
    expected = [eager(cuda_model, image) for image in images]
    for _ in range(2):
        cuda_model.encode(images[0])
    torch.cuda.synchronize()
    wrong: list[int] = []

    def work(index: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(20):
                found = cuda_model.encode(images[index]).tokens
                stream.synchronize()
                if not torch.equal(found, expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_first_call_is_eager_and_nothing_is_kept_for_it() -> None:
    calls: list[torch.Size] = []

    def double(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return x * 2

    graphed = GraphedForward(double)
    for size in (2, 3, 2, 3):
        assert torch.equal(graphed(torch.ones(size, device="cuda")), torch.full((size,), 2.0, device="cuda"))
    assert graphed.graph is None and len(calls) == 4
    for value in (1.0, 2.0, 3.0):
        assert float(graphed(torch.full((3,), value, device="cuda"))[0]) == 2 * value
    assert graphed.graph is not None and len(calls) == 4 + 3  # two to warm up, one to capture
