"""What control in attention costs a sampling: no tensor of queries x keys, and nothing at all where it is not used."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
import torch
from redux_scene import make_bias, queue_with, region_weights
from torch.utils._python_dispatch import TorchDispatchMode

SIDE = 768
LENGTH = 16 + 8 + (SIDE // 16) ** 2


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operator makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def largest(sample: Any, *args: Any) -> int:
    with Largest() as mode:
        sample(*args)
    return mode.elements


def test_no_tensor_of_queries_by_keys(scene: Any) -> None:
    latent = scene.comfy.empty_latent(SIDE, SIDE)
    region = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))

    def mine() -> None:
        conditioning = scene.apply(scene.text, scene.tokens(), strength=0.4, region=region, curve="linear down")
        scene.sample(conditioning, latent=latent, steps=2)

    def dense() -> None:
        weights = region_weights(region[0], 8, (SIDE // 8, SIDE // 8))
        bias = make_bias(LENGTH, [(0, 16, weights)], 16)
        scene.dense(bias, scene.tokens(), latent=latent, steps=1)

    assert largest(mine) < LENGTH**2 <= largest(dense)


@pytest.mark.parametrize("options", [{}, {"end_percent": 0.5}, {"region": torch.ones(1, 4, 4), "strength": 0.0}])
def test_plain_references_go_through_the_models_own_attention(
    scene: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from redux_control.nodes.host import override

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weighted attention was called")

    monkeypatch.setattr(override, "weighted_attention", refuse)
    scene.sample(scene.apply(scene.text, scene.tokens(), **options), steps=4)


def test_shares_are_counted_only_for_an_influence_map(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from redux_control.nodes.host import control, override

    counted: list[bool] = []
    plain, counting = override.weighted_attention, override.weighted_attention_and_shares
    monkeypatch.setattr(override, "weighted_attention", lambda *a, **k: counted.append(False) or plain(*a, **k))
    monkeypatch.setattr(
        override, "weighted_attention_and_shares", lambda *a, **k: counted.append(True) or counting(*a, **k)
    )
    conditioning = scene.apply(scene.text, scene.tokens(), strength=0.4)
    scene.sample(conditioning)
    assert counted == [False] * 6
    monkeypatch.setattr(control, "influence_wanted", lambda: True)
    scene.sample(conditioning)
    assert counted == [False] * 6 + [True] * 6


@pytest.mark.parametrize("options", [{"strength": 0.4}, {"strength": 1.0}, {"strength": 0.4, "response": "even"}])
def test_without_a_map_in_the_graph_nothing_is_recorded(
    scene: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that counts, keeps or shows shares, in samplings of a graph without the node, and with it."""
    from redux_control.nodes.host import live, override
    from redux_control.redux.influence import Recorder

    calls: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        found = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.update([name]) or found(*args, **kwargs))

    recording = [(override, "weighted_attention_and_shares"), (Recorder, "add"), (live.LiveInfluence, "look")]
    for owner, name in recording:
        count(owner, name)
    conditioning = scene.apply(scene.text, scene.tokens(), **options)
    monkeypatch.setitem(sys.modules, "server", queue_with("ReduxApply", "KSampler", "VAEDecode"))
    scene.sample(conditioning)
    assert not calls
    monkeypatch.setitem(sys.modules, "server", queue_with("ReduxApply", "KSampler", "VAEDecode", "ReduxInfluence"))
    scene.sample(conditioning)
    assert set(calls) == {name for _, name in recording}


def test_weights_are_made_once_and_not_in_every_step(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from redux_control.redux import step_weights

    made: list[int] = []
    prepare = step_weights.prepare_groups
    monkeypatch.setattr(step_weights, "prepare_groups", lambda *args: made.append(1) or prepare(*args))
    conditioning = scene.apply(scene.text, scene.tokens(), region=torch.rand(1, 64, 64), blocks="single:1=0.5")
    scene.sample(conditioning, steps=5)
    assert len(made) == 2  # one for each kind of block
