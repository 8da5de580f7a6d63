"""Several references in one conditioning."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from redux_scene import count_calls, make_bias, region_weights, relative

TEXT = 8


def region(seed: int) -> torch.Tensor:
    return (torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(seed)) > 0.3).float()


def test_references_merge_into_one_dense_bias(scene: Any) -> None:
    """Three Applies: plain, weak, and in a region; what was applied last stands first."""
    plain, weak, local = (scene.tokens(seed, rows) for seed, rows in ((1, 2), (2, 3), (3, 4)))
    conditioning = scene.apply(scene.text, plain)
    conditioning = scene.apply(conditioning, weak, strength=0.3)
    conditioning = scene.apply(conditioning, local, strength=2.0, region=region(1))
    weights = 2.0 * region_weights(region(1)[0], TEXT, (16, 16))
    bias = make_bias(36 + TEXT + 64, [(0, 16, weights), (16, 28, 0.3)], 36)
    dense = scene.dense(bias, local, weak, plain)
    assert relative(scene.sample(conditioning), dense) < 1e-5


def test_six_references_are_one_call_a_step(scene: Any) -> None:
    conditioning = scene.text
    for index in range(6):
        options = {"strength": 0.2 * (index + 1), "region": region(index), "curve": "ease out"}
        start, end = 0.1 * index, 0.1 * (index + 5)
        tokens = scene.tokens(index, rows=index + 1)
        conditioning = scene.apply(conditioning, tokens, start_percent=start, end_percent=end, **options)
    model, calls = count_calls(scene.flux)
    result = scene.sample(conditioning, model, steps=4)
    assert len(conditioning) == 1 and len(calls) == 4
    # At 0, 1/4, 1/2 and 3/4 of the denoising; reference i acts from i / 10 to (i + 5) / 10.
    acting = [[0], [0, 1, 2], [1, 2, 3, 4, 5], [3, 4, 5]]
    assert [call["context"].shape[1] - TEXT for call in calls] == [sum(4 * (i + 1) for i in act) for act in acting]
    assert result.isfinite().all()


def test_the_order_of_references_does_not_matter(scene: Any) -> None:
    settings = [
        (scene.tokens(1), {"strength": 0.4}),
        (scene.tokens(2), {"region": region(2)}),
        (scene.tokens(3), {}),
    ]
    results = []
    for order in itertools.permutations(settings):
        conditioning = scene.text
        for tokens, options in order:
            conditioning = scene.apply(conditioning, tokens, **options)
        results.append(scene.sample(conditioning))
    assert max(relative(result, results[0]) for result in results) < 1e-5


def test_every_entry_of_a_conditioning_gets_the_reference(scene: Any) -> None:
    """Two prompts, combined: the pictures of both are averaged, each with the reference."""
    tokens, other = scene.tokens(), scene.comfy.conditioning(seed=2)
    both = scene.sample(scene.apply(scene.text + other, tokens, strength=0.5), steps=1)
    each = [scene.sample(scene.apply(text, tokens, strength=0.5), steps=1) for text in (scene.text, other)]
    assert relative(both, sum(each) / 2) < 1e-5


def test_branches_of_one_conditioning_stay_apart(scene: Any) -> None:
    """Two Applies on the same conditioning share its control, but not their references."""
    base = scene.apply(scene.text, scene.tokens(1), strength=0.5)
    left, right = (scene.apply(base, scene.tokens(seed), strength=2.0) for seed in (2, 3))
    alone = scene.sample(left)
    together = scene.sample(left, negative=right, cfg=3.0)
    rebuilt = scene.apply(scene.apply(scene.text, scene.tokens(1), strength=0.5), scene.tokens(3), strength=2.0)
    assert torch.equal(scene.sample(left), alone)
    assert relative(together, scene.sample(left, negative=rebuilt, cfg=3.0)) < 1e-6
