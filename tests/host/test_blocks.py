"""Factors of single blocks, against a dense bias of each block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from redux_scene import make_bias, relative

BLOCKS = (("double", 0), ("single", 0), ("single", 1))  # those of the small FLUX


def dense_blocks(scene: Any, tokens: Any, weights: dict[tuple[str, int], float]) -> torch.Tensor:
    count = tokens.tokens.shape[1]

    def bias(options: dict[str, Any], _: int) -> torch.Tensor:
        weight = weights[options["block_type"], options["block_index"]]
        return make_bias(count + 8 + 64, [(0, count, weight)], count)

    return scene.dense(bias, tokens)


@pytest.mark.parametrize(
    ("blocks", "factors"),
    [
        ("double:0=0", (0, 1, 1)),
        ("single:=0.5", (1, 0.5, 0.5)),
        ("double:0-18=2; single:1-37=0.25", (2, 1, 0.25)),
        ("single:=3, single:0=0", (1, 0, 3)),
        ("double:5-9=0.1\nsingle:30=0", (1, 1, 1)),
    ],
)
def test_block_factors_are_dense_biases(scene: Any, blocks: str, factors: tuple[float, ...]) -> None:
    tokens = scene.tokens()
    mine = scene.sample(scene.apply(scene.text, tokens, strength=0.6, blocks=blocks))
    weights = {block: 0.6 * factor for block, factor in zip(BLOCKS, factors, strict=True)}
    assert relative(mine, dense_blocks(scene, tokens, weights)) < 1e-5


@pytest.mark.parametrize("response", ["even", "weight"])
def test_a_factor_of_any_size_gives_a_picture(scene: Any, response: str) -> None:
    """Larger than fp32 holds, times zeros of a region, it was NaN."""
    region = torch.zeros(1, 8, 8)
    region[:, :, :4] = 1
    options = {"strength": 10.0, "region": region, "response": response}
    mine = scene.sample(scene.apply(scene.text, scene.tokens(), blocks=f"double:={'9' * 308}", **options))
    large = scene.sample(scene.apply(scene.text, scene.tokens(), blocks=f"double:={'9' * 30}", **options))
    assert relative(mine, large) < 1e-3


def test_no_block_at_all_is_no_reference(scene: Any) -> None:
    """Its tokens still stand in the sequence, but nothing reads them."""
    mine = scene.sample(scene.apply(scene.text, scene.tokens(), blocks="double:=0, single:=0"))
    assert relative(mine, scene.sample(scene.text)) < 1e-5


def test_a_bad_line_is_named(scene: Any) -> None:
    with pytest.raises(ValueError, match="'double=3' cannot be read; write e.g. double:0-9=0.5"):
        scene.apply(scene.text, scene.tokens(), blocks="single:=1, double=3")
