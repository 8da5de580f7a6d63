"""When a step is full, and what is kept of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redux.keeping import QUALITIES, KeptKeys, bytes_needed, full_steps, position_of

BLOCKS = [("double", 0), ("double", 1), ("single", 0)]


def test_full_steps_lie_early_in_growing_distances() -> None:
    assert full_steps("close", 28) == (0, 1, 2, 4, 8, 16)
    assert full_steps("fast", 28) == (0, 1, 4, 13)
    assert full_steps("close", 4) == (0, 1, 2) and full_steps("fast", 4) == (0, 1)
    assert full_steps("exact", 3) == (0, 1, 2) and full_steps("automatic", 20) == (0, 1)
    with pytest.raises(ValueError, match="no quality 'good'"):
        full_steps("good", 3)  # type: ignore[arg-type]


@given(steps=st.integers(1, 200), quality=st.sampled_from(QUALITIES))
def test_there_are_few_and_the_first_is_one(steps: int, quality: str) -> None:
    found = full_steps(quality, steps)  # type: ignore[arg-type]
    assert found[0] == 0 and list(found) == sorted(set(found)) and found[-1] < steps
    if quality != "exact":
        assert len(found) <= 2 + steps.bit_length()


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30, unique=True), st.floats(0, 1))
def test_positions_follow_the_noise_levels(levels: list[float], share: float) -> None:
    levels = [round(level, 4) for level in levels]
    sigmas = [*sorted(set(levels), reverse=True), 0.0]
    for step, sigma in enumerate(sigmas[:-1]):
        assert position_of(sigma, sigmas) == pytest.approx(step, abs=1e-6)
        between = sigma + share * (sigmas[step + 1] - sigma)
        assert step - 1e-6 <= position_of(between, sigmas) <= step + 1 + 1e-6
    assert position_of(2.0, sigmas) == 0
    assert position_of(0.0, sigmas) == pytest.approx(len(sigmas) - 1)


def run(quality: str, positions: list[float], steps: int, values: float = 1.0) -> list[float]:
    """The positions that were full."""
    kept, full = KeptKeys(), []
    for position in positions:
        sigma = 1 - position / steps
        if kept.is_due(quality, position, sigma, steps):  # type: ignore[arg-type]
            full.append(position)
            kept.begin(position)
            for block in BLOCKS:
                x = torch.ones(1, 2, 4, 8) * (1 + values * sigma)
                kept.put(block, x, x)
            kept.end(sigma)
    return full


def test_each_planned_step_is_full_once() -> None:
    assert run("close", [float(step) for step in range(28)], 28) == [0, 1, 2, 4, 8, 16]
    assert run("exact", [0.0, 1.0, 2.0], 3) == [0, 1, 2]


def test_samplers_of_second_order_and_skipped_steps_meet_them_too() -> None:
    """Heun calls the model at the start and at the end of each step; a step cache leaves calls out."""
    heun = [position for step in range(10) for position in (float(step), float(step + 1))]
    assert run("close", heun, 10) == [0, 1, 2, 4, 8]
    assert run("close", [0.0, 1.0, 3.0, 6.0, 7.0, 9.0], 10) == [0, 1, 3, 6, 9]


def test_an_earlier_position_is_another_sampling() -> None:
    assert run("close", [0.0, 1.0, 2.0, 3.0, 0.0, 1.0], 4) == [0, 1, 2, 0, 1]


def test_automatic_is_full_again_when_the_values_have_moved() -> None:
    steps = [float(step) for step in range(20)]
    still, moving = run("automatic", steps, 20, values=0.01), run("automatic", steps, 20, values=2.0)
    assert still == [0, 1] and 4 < len(moving) < 20


def test_a_full_step_that_was_left_out_is_due_again() -> None:
    kept = KeptKeys()
    for position in (0.0, 1.0):
        kept.begin(position)
        kept.end(1 - position / 10)
    assert not kept.is_due("close", 1.0, 0.9, 10) and kept.is_due("close", 2.0, 0.8, 10)
    kept.begin(2.0)
    assert not kept.is_due("close", 3.0, 0.7, 10)
    kept.undo()
    assert kept.is_due("close", 3.0, 0.7, 10) and kept.position == 1.0 and kept.fulls == 2
    first = KeptKeys()
    first.begin(0.0)
    first.undo()
    assert first.is_due("fast", 1.0, 0.9, 10) and first.fulls == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_put_comes_back(dtype: torch.dtype) -> None:
    kept, k, v = KeptKeys(), torch.randn(2, 3, 5, 8).to(dtype), torch.randn(2, 3, 5, 8).to(dtype)
    kept.put(BLOCKS[0], k, v)
    wanted = k.clone(), v.clone()
    k.zero_(), v.zero_()  # kernels may work in place on what they were given
    assert all(torch.equal(found, part) for found, part in zip(kept.get(BLOCKS[0]), wanted, strict=True))
    assert kept.nbytes == bytes_needed(1, 2, 3, 5, 8, dtype.itemsize)
    with pytest.raises(KeyError):
        kept.get(BLOCKS[1])


def test_half_the_memory_costs_little() -> None:
    kept, k, v = KeptKeys(half=True), 30 * torch.randn(1, 4, 64, 16), torch.randn(1, 4, 64, 16) / 100
    kept.put(BLOCKS[0], k, v)
    for found, part in zip(kept.get(BLOCKS[0]), (k, v), strict=True):
        assert found.dtype == part.dtype and (found - part).norm() / part.norm() < 0.04
    assert kept.nbytes < 0.3 * bytes_needed(1, 1, 4, 64, 16, 4)
    kept.put(BLOCKS[0], torch.zeros_like(k), torch.zeros_like(v))
    assert not kept.get(BLOCKS[0])[0].any()


def test_a_reference_of_flux_takes_half_a_gigabyte() -> None:
    assert bytes_needed(57, 1, 24, 729, 128, 2) == 510_603_264
