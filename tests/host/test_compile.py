"""Compiled models. ComfyUI drops the guards on transformer options, so what they hold may go stale; ours must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from redux_scene import relative

torch_compiles = pytest.mark.skipif(
    not hasattr(torch.Tag, "cudagraph_unsafe"), reason="ComfyUI's compile node needs guard filters, torch 2.8"
)


@pytest.fixture(scope="module")
def flux(scene: Any) -> Any:
    sizes = dataclasses.replace(scene.comfy.sizes, single_blocks=2)
    return scene.comfy.load_flux(scene.comfy.write(sizes, "compiled", seed=3).diffusion_models)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def by_block(flux: Any, keys: list[str], backend: str = "eager") -> Any:
    """Compiled as TorchCompileModel does it, with its guard filter, but block by block, as some packs do."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    model = flux.clone()
    set_torch_compile_wrapper(model, backend, options={"guard_filter_fn": skip_torch_compile_dict}, keys=keys)
    return model


def blocks(flux: Any) -> list[str]:
    model = flux.model.diffusion_model
    counts = {"double_blocks": len(model.double_blocks), "single_blocks": len(model.single_blocks)}
    return [f"diffusion_model.{kind}.{index}" for kind, count in counts.items() for index in range(count)]


def steps(scene: Any) -> list[list]:
    """Conditionings of equal token counts, so that shapes alone do not make the compiler look again."""
    long, tokens = scene.comfy.conditioning(seed=2, tokens=24), scene.tokens()
    region = torch.zeros(1, 8, 8)
    region[:, :4] = 1
    return [
        long,
        scene.apply(scene.text, tokens, strength=0.2),
        scene.apply(scene.text, tokens, strength=3.0),
        scene.apply(scene.text, tokens, strength=3.0, region=region),
        scene.apply(scene.text, tokens, strength=3.0, blocks="single:1=0"),
        scene.apply(scene.text, tokens),
        long,
    ]


def compare(scene: Any, flux: Any, model: Any, conditionings: list[list]) -> None:
    results = [scene.sample(conditioning, model) for conditioning in conditionings]
    expected = [scene.sample(conditioning, flux) for conditioning in conditionings]
    assert [relative(*pair) < 1e-5 for pair in zip(results, expected, strict=True)] == [True] * len(results)
    assert all(relative(one, other) > 1e-3 for one, other in zip(results[1:], results[:-1], strict=True))


@torch_compiles
def test_what_changes_takes_effect_in_a_compiled_model(scene: Any, flux: Any) -> None:
    """Weights are compiled once: strengths, regions and block factors share one graph for each attention."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compare(scene, flux, TorchCompileModel.execute(flux, backend).args[0], steps(scene))
    nodes = [node for graph in graphs for node in graph.graph.nodes]
    assert sum("redux_control" in str(node.target) for node in nodes) == 3


def test_what_changes_takes_effect_in_compiled_blocks(scene: Any, flux: Any) -> None:
    """Blocks share graphs, so a graph does not know its block."""
    compare(scene, flux, by_block(flux, blocks(flux)), steps(scene))


@torch_compiles
def test_inductor(scene: Any, flux: Any) -> None:
    model = by_block(flux, ["diffusion_model.single_blocks.0"], "inductor")
    compare(scene, flux, model, steps(scene)[1:4])


@torch_compiles
def test_kept_references_are_compiled_for_full_and_kept_steps_only(scene: Any, flux: Any) -> None:
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def kept(strength: float) -> list:
        applied = scene.apply(scene.text, scene.tokens(), strength=strength)
        return scene.nodes["ReduxKeep"].execute(applied, "close").args[0]

    model = TorchCompileModel.execute(flux, backend).args[0]
    first = scene.sample(kept(0.3), model, steps=10)
    made = len(graphs)
    second = scene.sample(kept(0.8), model, steps=10)
    assert made == len(graphs), "another strength compiles nothing"
    nodes = [node for graph in graphs for node in graph.graph.nodes]
    assert sum("redux_control" in str(node.target) for node in nodes) == 2 * 3
    for found, strength in ((first, 0.3), (second, 0.8)):
        assert relative(found, scene.sample(kept(strength), flux, steps=10)) < 1e-5
