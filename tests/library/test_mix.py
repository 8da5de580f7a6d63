"""Every way to make one reference of several, against plain loops in float64.

Shapes: B pictures, N tokens, D width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import redux
from redux.mix import AVERAGES, METHODS
from redux.tokens import Grid, Part, ReduxTokens

WIDTH = 6
COMBINING = [method for method in METHODS if method != "join"]

Vector = list[float]


def make(grid: Grid = (3, 4), seed: int = 0, *, batch: int = 2, holes: float | None = None) -> ReduxTokens:
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1]
    tokens_BND = torch.randn(batch, count, WIDTH, generator=generator)
    coverage_BN = None
    if holes is not None:
        coverage_BN = torch.rand(batch, count, generator=generator)
        coverage_BN = torch.where(torch.rand(batch, count, generator=generator) < holes, 0, coverage_BN)
    return ReduxTokens(tokens_BND, (Part((grid,), 729),), coverage_BN, "abc", {"fit": "stretch", "seed": seed})


def cover(reference: ReduxTokens) -> torch.Tensor:
    return torch.ones(reference.tokens.shape[:2]) if reference.coverage is None else reference.coverage


# One token of the tokens at one place: (vectors, weights), both without what is dropped.


def length(vector: Vector) -> float:
    return math.sqrt(sum(x * x for x in vector))


def average(vectors: list[Vector], weights: list[float]) -> Vector:
    return [sum(w * x for w, x in zip(weights, xs, strict=True)) / sum(weights) for xs in zip(*vectors, strict=True)]


def norm_average(vectors: list[Vector], weights: list[float]) -> Vector:
    direction = average([[x / length(v) for x in v] for v in vectors], weights)
    mean_length = average([[length(v)] for v in vectors], weights)[0]
    return [x / length(direction) * mean_length for x in direction]


def slerp(vectors: list[Vector], weights: list[float]) -> Vector:
    mixed, total = vectors[0], weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        total += weight
        t, (la, lb) = weight / total, (length(mixed), length(vector))
        a, b = [x / la for x in mixed], [x / lb for x in vector]
        angle = math.acos(max(-1.0, min(1.0, sum(x * y for x, y in zip(a, b, strict=True)))))
        between = [
            (math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle)
            for x, y in zip(a, b, strict=True)
        ]
        mixed = [x * ((1 - t) * la + t * lb) for x in between]
    return mixed


def add(vectors: list[Vector], weights: list[float]) -> Vector:
    return [sum(w * x for w, x in zip(weights, xs, strict=True)) for xs in zip(*vectors, strict=True)]


def largest(vectors: list[Vector], weights: list[float]) -> Vector:
    return [max(w * x for w, x in zip(weights, xs, strict=True)) for xs in zip(*vectors, strict=True)]


LOOPS: dict[str, Callable[[list[Vector], list[float]], Vector]] = {
    "average": average,
    "norm average": norm_average,
    "slerp": slerp,
    "add": add,
    "max": largest,
}


def expect(references: Sequence[ReduxTokens], weights: Sequence[float], method: str) -> list[list[Vector | None]]:
    """By picture and place: the token, or None where it is dropped."""
    rows: list[list[Vector | None]] = []
    for picture in range(references[0].num_pictures):
        row: list[Vector | None] = []
        for place in range(references[0].tokens.shape[1]):
            found: list[tuple[Vector, float]] = []
            for index, (reference, weight) in enumerate(zip(references, weights, strict=True)):
                covered = float(cover(reference)[picture, place])
                sign = -1 if method == "subtract" and index else 1
                if covered > 0 and (weight != 0 or (method == "subtract" and index == 0)):
                    share = weight * covered if method in AVERAGES else sign * weight
                    found.append((reference.tokens[picture, place].double().tolist(), share))
            first_dropped = method == "subtract" and float(cover(references[0])[picture, place]) == 0
            loop = LOOPS.get(method, add)
            row.append(loop([v for v, _ in found], [w for _, w in found]) if found and not first_dropped else None)
        rows.append(row)
    return rows


weight_lists = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]), min_size=1, max_size=4).filter(any)


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from(COMBINING),
    weights=weight_lists,
    holes=st.sampled_from([None, 0.3, 0.8]),
    seed=st.integers(0, 20),
)
def test_every_method_against_a_loop(method: str, weights: list[float], holes: float | None, seed: int) -> None:
    references = [make(seed=10 * seed + i, holes=holes if i % 2 == 0 else None) for i in range(len(weights))]
    copies = [(r.tokens.clone(), cover(r).clone()) for r in references]
    mixed = redux.mix(references, method, weights)
    expected = expect(references, weights, method)
    for picture, place in itertools.product(range(2), range(12)):
        token = expected[picture][place]
        covered = float(cover(mixed)[picture, place])
        if token is None:
            assert covered == 0
            continue
        assert covered > 0
        found = mixed.tokens[picture, place].double()
        wanted = torch.tensor(token, dtype=torch.float64)
        scale = max(1.0, float(wanted.norm()), *(float(r.tokens[picture, place].norm()) for r in references))
        assert float((found - wanted).norm()) < 2e-4 * scale
    assert (mixed.grid, mixed.full_count, mixed.encoder) == ((3, 4), 729, "abc")
    pairs = zip(references, copies, strict=True)
    assert all(torch.equal(r.tokens, t) and torch.equal(cover(r), c) for r, (t, c) in pairs)


@pytest.mark.parametrize("method", [m for m in COMBINING if m != "subtract"])
def test_coverage_is_the_union_of_what_has_weight(method: str) -> None:
    left, right = (make(seed=s) for s in (0, 1))
    left = replace(left, coverage=torch.arange(12).lt(6).float().expand(2, -1))
    right = replace(right, coverage=torch.arange(12).ge(3).float().expand(2, -1) * 0.5)
    both = redux.mix([left, right], method)
    assert torch.equal(cover(both)[0], torch.tensor([1.0] * 6 + [0.5] * 6))
    alone = redux.mix([left, right], method, [1, 0])
    assert torch.equal(cover(alone), cover(left))
    assert torch.allclose(alone.tokens[:, :6], left.tokens[:, :6], atol=1e-6)
    assert torch.allclose(both.tokens[:, 6:], right.tokens[:, 6:], atol=1e-6)


@pytest.mark.parametrize("method", ["average", "norm average", "slerp", "max"])
def test_equal_references_stay_what_they_are(method: str) -> None:
    reference = make()
    for count in (1, 2, 5):
        assert torch.allclose(redux.mix([reference] * count, method).tokens, reference.tokens, atol=1e-5)


def test_slerp_keeps_length_and_halves_the_angle() -> None:
    a = ReduxTokens(torch.tensor([[[2.0, 0.0]]]), (Part(((1, 1),), 1),))
    b = replace(a, tokens=torch.tensor([[[0.0, 4.0]]]))
    assert redux.mix([a, b], "slerp").tokens[0, 0].tolist() == pytest.approx([3 * math.sqrt(0.5)] * 2)
    assert redux.mix([a, b], "slerp", [2, 1]).tokens[0, 0].tolist() == pytest.approx(
        [8 / 3 * math.cos(math.pi / 6), 8 / 3 * math.sin(math.pi / 6)]
    )
    opposite = redux.mix([a, replace(a, tokens=-a.tokens)], "slerp").tokens
    nothing = redux.mix([a, replace(a, tokens=0 * a.tokens)], "slerp").tokens
    assert bool(torch.isfinite(opposite).all()) and bool(torch.isfinite(nothing).all())


@pytest.mark.parametrize("method", COMBINING)
def test_different_grids_are_pooled_to_the_smaller_side_of_each(method: str) -> None:
    wide, tall = make((3, 8), 0, holes=0.3), make((6, 4), 1)
    mixed = redux.mix([wide, tall], method, [1, 0.5])
    expected = redux.mix([wide.pool((3, 4)), tall.pool((3, 4))], method, [1, 0.5])
    assert mixed.grid == (3, 4)
    assert torch.equal(mixed.tokens, expected.tokens) and torch.equal(cover(mixed), cover(expected))


def test_order_matters_where_it_must() -> None:
    a, b, c = (make(seed=s) for s in range(3))
    weights = [1, 0.5, 0.25]
    for method in ("average", "norm average", "add", "max"):
        one = redux.mix([a, b, c], method, weights).tokens
        other = redux.mix([c, a, b], method, [0.25, 1, 0.5]).tokens
        assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(redux.mix([a, b], "subtract").tokens, -redux.mix([b, a], "subtract").tokens)
    joined = redux.mix([a, b, c], "join", weights)
    assert torch.equal(joined.tokens, torch.cat([a.tokens, b.tokens, c.tokens], dim=1))
    assert [part.weight for part in joined.parts] == weights


def test_weights_of_a_join_are_not_lost_in_an_average() -> None:
    light = redux.mix([make()], "join", [0.5])
    assert redux.mix([light, light]).parts == light.parts
    with pytest.raises(ValueError, match="mix first and join afterwards"):
        redux.mix([light, make(seed=1)])


def test_device_and_dtype_are_the_first_references() -> None:
    """As when one comes from a file, in main memory, and another from the GPU; here "meta" stands for the GPU."""
    there, here = make(holes=0.3).to("meta", torch.bfloat16), make(seed=1)
    for method in METHODS:
        mixed = redux.mix([there, here], method)
        assert mixed.coverage is not None
        assert mixed.tokens.device.type == mixed.coverage.device.type == "meta"
        assert mixed.tokens.dtype == torch.bfloat16


def test_what_was_mixed_is_known_afterwards() -> None:
    mixed = redux.mix([make(seed=1), make(seed=2)], "slerp", [1, 0.5])
    sources = [{"fit": "stretch", "seed": seed} for seed in (1, 2)]
    assert mixed.about == {"mix": "slerp", "weights": [1.0, 0.5], "of": sources}
    assert redux.mix([make(), replace(make(), encoder="")], "join").encoder == ""
    assert redux.mix([replace(make(), encoder=""), make()], "average").encoder == ""


@pytest.mark.parametrize(
    ("method", "weights", "words"),
    [
        ("blend", None, "There is no method 'blend'; choose one of join, average"),
        ("average", [1], "There are 1 weights for 2 references"),
        ("average", [1, 1, 1], "There are 3 weights for 2 references"),
        ("add", [math.nan, 1], "finite numbers"),
        ("join", [1, math.inf], "finite numbers"),
        ("join", [1, -1], "numbers from 0 up"),
        ("slerp", [2, -1], "numbers from 0 up"),
        *((method, [0, 0], "not all 0") for method in METHODS),
    ],
)
def test_wrong_weights(method: str, weights: list[float] | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        redux.mix([make(), make(seed=1)], method, weights)


@pytest.mark.parametrize("method", ["add", "subtract", "max"])
@pytest.mark.parametrize("weights", [[1e38, -1e38], [1e38, 1e38], [1e300, 1]])
def test_a_result_that_overflows_is_refused(method: str, weights: list[float]) -> None:
    """It made the whole picture black, without a word."""
    large = replace(make(), tokens=make().tokens * 10)
    if (method, weights) == ("subtract", [1e38, 1e38]):
        weights = [1e38, -1e38]
    with pytest.raises(ValueError, match=f"the result of {method} overflows; smaller weights are needed"):
        redux.mix([large, make(seed=1)], method, weights)
    with pytest.raises(ValueError, match="overflows"):
        redux.mix([large.to(dtype=torch.float16), make(seed=1)], "add", [1e5, 1])


@pytest.mark.parametrize("method", ["average", "norm average", "slerp"])
def test_only_the_ratio_of_weights_counts(method: str) -> None:
    references = [make(), make(seed=1)]
    expected = redux.mix(references, method, [1, 0.5]).tokens
    for scale in (1e38, 2e300, 1e-300):
        assert torch.allclose(redux.mix(references, method, [scale, scale / 2]).tokens, expected, rtol=1e-6)


def test_references_with_values_that_are_no_numbers_are_named() -> None:
    broken = replace(make(), tokens=make().tokens.clone().index_fill_(2, torch.tensor(0), math.nan))
    for method in METHODS:
        if method != "join":
            with pytest.raises(ValueError, match="tokens that are NaN or infinite"):
                redux.mix([make(seed=1), broken], method)


def test_references_that_do_not_go_together() -> None:
    unknown, first, second = (replace(make(), encoder=name) for name in ("", "abc", "xyz"))
    for others in ([first, second], [unknown, first, second]):
        with pytest.raises(ValueError, match=r"two encoders \(abc, xyz\)"):
            redux.mix(others, "join")
    with pytest.raises(ValueError, match="no references to mix"):
        redux.mix([])
    with pytest.raises(ValueError, match="of 2 and 3 pictures"):
        redux.mix([make(), make(batch=3)])
