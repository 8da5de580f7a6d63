"""Strength through a real sampler, against ComfyUI core's own Redux nodes (fp32, CPU, small FLUX)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

STEPS = 4


@pytest.fixture(scope="module")
def flux(comfy: Any) -> Any:
    return comfy.load_flux()


@pytest.fixture
def tokens(comfy: Any, pack: Any) -> Any:
    """A reference of 16 tokens, random."""
    values = torch.randn(1, 16, comfy.sizes.context, generator=torch.Generator().manual_seed(7))
    return pack.redux.ReduxTokens(values, (pack.redux.tokens.Part(((4, 4),), 16),))


def core_redux(comfy: Any, conditioning: list, tokens: Any, strength: float, kind: str = "attn_bias") -> list:
    """ComfyUI's StyleModelApply with a style model that gives our tokens."""
    style = SimpleNamespace(get_cond=lambda _: tokens.tokens.clone())
    return comfy.nodes.StyleModelApply().apply_stylemodel(conditioning, style, None, strength, kind)[0]


def ours(redux_nodes: Any, conditioning: list, tokens: Any, **options: Any) -> list:
    return redux_nodes["ReduxApply"].execute(conditioning, tokens, **options).args[0]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("strength", [0.05, 0.4, 2.0])
def test_strength_is_cores_attn_bias(comfy: Any, flux: Any, redux_nodes: Any, tokens: Any, strength: float) -> None:
    text = comfy.conditioning(seed=1)
    core = comfy.sample(flux, core_redux(comfy, text, tokens, strength), steps=STEPS)
    mine = comfy.sample(flux, ours(redux_nodes, text, tokens, strength=strength), steps=STEPS)
    plain = comfy.sample(flux, ours(redux_nodes, text, tokens), steps=STEPS)
    assert relative(mine, core) < 1e-4  # core keeps its mask in fp16
    assert relative(plain, core) > 1e-2  # the strength does something


def test_strength_zero_is_no_reference_bit_for_bit(comfy: Any, flux: Any, redux_nodes: Any, tokens: Any) -> None:
    text = comfy.conditioning(seed=1)
    mine = comfy.sample(flux, ours(redux_nodes, text, tokens, strength=0.0), steps=STEPS)
    assert torch.equal(mine, comfy.sample(flux, text, steps=STEPS))
    core = comfy.sample(flux, core_redux(comfy, text, tokens, 0.0), steps=STEPS)
    assert not torch.isfinite(core).all()  # why ours does not add the logarithm of zero


def test_strength_one_is_plain_concatenation(comfy: Any, flux: Any, redux_nodes: Any, tokens: Any) -> None:
    text = comfy.conditioning(seed=1)
    core = comfy.sample(flux, core_redux(comfy, text, tokens, 1.0, "multiply"), steps=STEPS)
    assert relative(comfy.sample(flux, ours(redux_nodes, text, tokens), steps=STEPS), core) < 1e-6


def test_strength_runs_continuously_from_nothing_to_plain(comfy: Any, flux: Any, redux_nodes: Any, tokens: Any) -> None:
    """One step: the distance from the picture without a reference grows with the strength."""
    text = comfy.conditioning(seed=1)
    without = comfy.sample(flux, text, steps=1)
    strengths = [1e-4, 0.03, 0.2, 0.6, 1.0, 2.0]
    distances = [
        relative(comfy.sample(flux, ours(redux_nodes, text, tokens, strength=s), steps=1), without) for s in strengths
    ]
    assert distances == sorted(distances)
    assert distances[0] < 1e-3 < 1e-2 < distances[-1]
