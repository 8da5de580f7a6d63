"""An even strength mixes attention with and without the reference: through a real sampler, against a dense model.

The dense model mixes whole attentions, one more than there are references, in every block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from redux_scene import region_weights, relative
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

TEXT, REST = 8, 8 + 64  # text, and text with image tokens
Amount = float | Tensor


def mixed(counts: Sequence[int], amounts: Callable[[dict], Sequence[Amount]]) -> Callable[..., Tensor]:
    """An override that attends to the references whose amount exceeds t, for all t from 0 to 1.

    Amounts are numbers, or [L] behind the references or [H, L], and at most 1.
    """

    def attend(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **options: Any) -> Tensor:
        first, length = sum(counts), k.shape[2]
        rows = torch.ones(len(counts), heads, length, device=q.device)
        for row, amount in zip(rows, amounts(options["transformer_options"]), strict=True):
            row[:, first:] = torch.as_tensor(amount, device=q.device)
        bounds = torch.cat((torch.zeros_like(rows[:1]), rows, torch.ones_like(rows[:1]))).sort(0).values
        out = torch.zeros_like(q)
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            there = torch.ones(heads, length, length, dtype=torch.bool, device=q.device)
            start = 0
            for count, row in zip(counts, rows, strict=True):
                there[:, :, start : start + count] = (row >= high)[..., None]
                start += count
            out += scaled_dot_product_attention(q, k, v, attn_mask=there[None]) * (high - low)[None, :, :, None]
        return out.transpose(1, 2).flatten(2)

    return attend


def dense(scene: Any, tokens: Sequence[Any], amounts: Any, **options: Any) -> Tensor:
    model = scene.flux.clone()
    counts = [item.tokens.shape[1] for item in tokens]
    attend = mixed(counts, amounts if callable(amounts) else lambda _: amounts)
    model.model_options["transformer_options"]["optimized_attention_override"] = attend
    return scene.sample(scene.plain(*tokens), model, **options)


def region() -> Tensor:
    return torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("strength", [0.05, 0.5, 0.9])
def test_an_even_strength_is_the_mixture(scene: Any, strength: float) -> None:
    tokens = scene.tokens()
    mine = scene.sample(scene.apply(scene.text, tokens, strength=strength, response="even"))
    assert relative(mine, dense(scene, [tokens], [strength])) < 1e-5
    assert relative(mine, scene.sample(scene.apply(scene.text, tokens, strength=strength))) > 1e-3


def test_the_ends_are_bit_for_bit_no_reference_and_plain_redux(scene: Any) -> None:
    tokens, ones = scene.tokens(), torch.ones(1, 5, 5)
    without, plain = scene.sample(scene.text), scene.sample(scene.apply(scene.text, tokens))
    for options in ({"strength": 0.0}, {"strength": 1.0, "region": ones * 0}):
        assert torch.equal(scene.sample(scene.apply(scene.text, tokens, response="even", **options)), without)
    assert torch.equal(scene.sample(scene.apply(scene.text, tokens, response="even", strength=1.0)), plain)
    for options in ({"strength": 1.0, "region": ones}, {"strength": 2.0, "region": ones / 2}):
        made = scene.sample(scene.apply(scene.text, tokens, response="even", **options))
        assert relative(made, plain) < 1e-6  # the areas of a region's pixels are rounded


def test_above_one_it_is_the_weight_and_continuous(scene: Any) -> None:
    tokens = scene.tokens()

    def made(strength: float, response: str = "even") -> Tensor:
        return scene.sample(scene.apply(scene.text, tokens, strength=strength, response=response))

    assert torch.equal(made(3.0), made(3.0, "weight"))
    plain = made(1.0)
    assert max(relative(made(1 - 1e-4), plain), relative(made(1 + 1e-4), plain)) < 1e-3


def test_a_region_is_a_factor_at_each_place(scene: Any) -> None:
    tokens = scene.tokens()
    mine = scene.sample(scene.apply(scene.text, tokens, strength=0.7, region=region(), response="even"))
    amounts = 0.7 * region_weights(region()[0], TEXT, (16, 16))
    assert relative(mine, dense(scene, [tokens], [amounts])) < 1e-5


def test_a_curve_is_a_factor_at_each_step(scene: Any) -> None:
    tokens, sigmas = scene.tokens(), []

    def amounts(options: dict) -> list[float]:
        sigma = float(options["sigmas"][0])
        if sigma not in sigmas:
            sigmas.append(sigma)
        return [0.8 * (1 - sigmas.index(sigma) / 4)]

    conditioning = scene.apply(scene.text, tokens, strength=0.8, curve="linear down", response="even")
    assert relative(scene.sample(conditioning, steps=4), dense(scene, [tokens], amounts, steps=4)) < 1e-5


def test_several_references_even_and_weighed(scene: Any) -> None:
    """In whatever order they are applied, and where one fades out the other is as if it were alone."""
    first, second = scene.tokens(1), scene.tokens(2)
    settings = [(first, {"strength": 0.6, "region": region()}), (second, {"strength": 0.3})]
    results = []
    for order in (settings, settings[::-1]):
        conditioning = scene.text
        for tokens, options in order:
            conditioning = scene.apply(conditioning, tokens, response="even", **options)
        results.append(scene.sample(conditioning))
    assert relative(*results) < 1e-5
    amounts = 0.6 * region_weights(region()[0], TEXT, (16, 16))
    assert relative(results[0], dense(scene, [second, first], [0.3, amounts])) < 1e-5
    alone = scene.sample(scene.apply(scene.text, first, strength=0.6, response="even"))
    both = scene.apply(scene.apply(scene.text, first, strength=0.6, response="even"), second, strength=1e-5)
    faded = scene.apply(
        scene.apply(scene.text, first, strength=0.6, response="even"), second, strength=1e-5, response="even"
    )
    assert max(relative(scene.sample(both), alone), relative(scene.sample(faded), alone)) < 1e-3


@pytest.mark.parametrize("response", ["even", "weight"])
def test_heads_have_factors_of_their_own(scene: Any, response: str) -> None:
    """The small FLUX has heads fewer than FLUX.1; rules for heads that it lacks do nothing."""
    tokens, heads = scene.tokens(), scene.flux.model.diffusion_model.num_heads
    mine = scene.apply(scene.text, tokens, response=response, blocks="double:0.h1-23=0, single:1.h0=0.5", strength=0.8)

    def amounts(options: dict) -> list[Tensor]:
        factors = torch.ones(heads, 1)
        if (options["block_type"], options["block_index"]) == ("double", 0):
            factors[1:] = 0
        elif (options["block_type"], options["block_index"]) == ("single", 1):
            factors[0] = 0.5
        return [0.8 * factors]

    if response == "even":
        assert relative(scene.sample(mine), dense(scene, [tokens], amounts)) < 1e-5
    else:
        count = tokens.tokens.shape[1]

        def bias(options: dict[str, Any], length: int) -> Tensor:
            table = torch.zeros(1, heads, length, length)
            table[:, :, count:, :count] = amounts(options)[0].log()[None, :, :, None]
            return table

        assert relative(scene.sample(mine), scene.dense(bias, tokens)) < 1e-5


def test_another_nodes_mask_is_kept(scene: Any) -> None:
    """A mask takes another way through attention, with the same mixture."""
    tokens = scene.tokens()
    ((text, options),) = scene.text
    masked = [[text, {**options, "attention_mask": torch.zeros(1, REST, REST)}]]
    mine = scene.sample(scene.apply(masked, tokens, strength=0.4, response="even"))
    assert relative(mine, dense(scene, [tokens], [0.4])) < 1e-3


def test_a_bad_response_is_named(scene: Any) -> None:
    with pytest.raises(ValueError, match="no response 'odd'; choose even or weight"):
        scene.apply(scene.text, scene.tokens(), response="odd")
