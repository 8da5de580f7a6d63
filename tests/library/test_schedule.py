"""When and in which blocks a reference acts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redux.schedule import BLOCK_COUNTS, CURVES, BlockWeights, Schedule, percent_of_sigma

shares = st.floats(0, 1)


@st.composite
def schedules(draw: st.DrawFn, *curves: str) -> Schedule:
    start, end = sorted(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True)))
    return Schedule(start / 1000, end / 1000, draw(st.sampled_from(curves or sorted(CURVES))))


@given(schedules(), shares)
def test_a_factor_lies_between_nothing_and_all(schedule: Schedule, percent: float) -> None:
    assert 0 <= schedule.factor(percent) <= 1


@given(st.integers(1, 999), shares)
def test_two_that_meet_never_act_together_and_leave_no_gap(boundary: int, percent: float) -> None:
    first, second = Schedule(0, boundary / 1000), Schedule(boundary / 1000, 1)
    assert first.factor(percent) + second.factor(percent) == 1


@given(schedules("linear up"), schedules("linear down"), shares)
def test_up_and_down_add_to_one(up: Schedule, down: Schedule, percent: float) -> None:
    down = Schedule(up.start, up.end, down.curve)
    inside = Schedule(up.start, up.end).factor(percent)
    assert up.factor(percent) + down.factor(percent) == pytest.approx(inside)


@given(schedules(), shares, shares)
def test_curves_run_one_way(schedule: Schedule, one: float, other: float) -> None:
    span = schedule.end - schedule.start - 1e-5
    early, late = (schedule.factor(schedule.start + share * span) for share in sorted((one, other)))
    falls = schedule.curve in ("linear down", "ease out")
    assert schedule.curve == "constant" or (early >= late if falls else early <= late)


def test_the_last_step_belongs_to_a_schedule_that_ends_with_the_sampling() -> None:
    assert Schedule(0.5, 1.0).factor(1.0) == 1
    assert Schedule(0.5, 0.999).factor(0.999) == 0


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 1), (0, 1.1), (float("nan"), 1)])
def test_impossible_times_are_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match="0 <= start < end <= 1 is needed"):
        Schedule(start, end)


def test_an_unknown_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="no curve 'bounce'; choose one of constant, linear up"):
        Schedule(curve="bounce")


@given(shares, st.floats(0.3, 8))
def test_a_noise_level_finds_its_moment(percent: float, shift: float) -> None:
    """FLUX's shifted levels, rounded to fp32 as a sampler does."""
    import numpy as np

    def sigma(share: float) -> float:
        return shift * (1 - share) / (1 + (shift - 1) * (1 - share))

    assert percent_of_sigma(float(np.float32(sigma(percent))), sigma) == pytest.approx(percent, abs=2e-6)


@pytest.mark.parametrize("sigma", [999999999.9, 14.6, 1.0])
def test_noise_above_the_first_level_is_the_beginning(sigma: float) -> None:
    assert percent_of_sigma(sigma, lambda share: 1 - share) < 1e-9


blocks = st.sampled_from(sorted(BLOCK_COUNTS)).flatmap(
    lambda kind: st.tuples(
        st.just(kind), st.lists(st.integers(0, BLOCK_COUNTS[kind] - 1), min_size=2, max_size=2).map(sorted)
    )
)


@given(st.lists(st.tuples(blocks, st.integers(0, 400)), max_size=6), blocks)
def test_rules_are_read_and_the_last_one_wins(rules: list, asked: tuple) -> None:
    text = ", ".join(f" {kind} : {first}-{last} = {factor / 100}" for (kind, (first, last)), factor in rules)
    kind, (index, _) = asked
    hits = [factor / 100 for (other, (first, last)), factor in rules if other == kind and first <= index <= last]
    assert BlockWeights.parse(text).factor(kind, index) == (hits[-1] if hits else 1.0)


@pytest.mark.parametrize(
    ("text", "factors"),
    [
        ("", (1, 1, 1)),
        (" \n ; ,", (1, 1, 1)),
        ("double:=0.5", (0.5, 0.5, 1)),
        ("double:0=.5;single:=2.", (0.5, 1, 2)),
        ("DOUBLE:18=0", (1, 0, 1)),
    ],
)
def test_rules_in_short_forms(text: str, factors: tuple[float, ...]) -> None:
    weights = BlockWeights.parse(text)
    assert (weights.factor("double", 0), weights.factor("double", 18), weights.factor("single", 37)) == factors


@pytest.mark.parametrize(
    "text",
    [
        "double",
        "double:",
        "double=1",
        "double:1-=2",
        "double:0=1e3",
        "triple:0=1",
        "single:0:1=1",
        "0=1",
        "double:9999999999=1",  # Python makes no number of more than 4300 digits
        "double:1_0=1",
        "double:0=1_0",
    ],
)
def test_a_bad_rule_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read; write e.g. double:0-9=0.5") as error:
        BlockWeights.parse(f"single:=1, {text}")
    assert f"'{text}'" in str(error.value)


@pytest.mark.parametrize("text", ["double:19=1", "single:38=1", "double:0-19=1"])
def test_blocks_that_do_not_exist_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' names blocks that FLUX.1 does not have; {text[:6]}: 0-"):
        BlockWeights.parse(text)


@pytest.mark.parametrize("text", ["single:5-4=1", "double:5-0=1", "double:3.h5-4=0", "single:.h9-0=0"])
def test_a_rule_that_counts_down_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' counts down from [59] to [40]; the lower number comes first"):
        BlockWeights.parse(text)


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "double:=" + "9" * 400, "double:" + "0" * 99 + "=1", "single:40=" + "1" * 99]
)
def test_a_long_rule_is_shortened(text: str) -> None:
    with pytest.raises(ValueError, match=r"^The block rule '") as error:
        BlockWeights.parse(text)
    assert text[:7] in str(error.value) and "…'" in str(error.value) and len(str(error.value)) < 220


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_sentence(text: str) -> None:
    try:
        BlockWeights.parse(text)
    except ValueError as error:
        assert str(error).startswith("The block rule '") and str(error).endswith(".")


def test_rules_for_heads() -> None:
    """A later rule wins, head by head; heads that a model lacks do nothing; equal heads are one number."""
    weights = BlockWeights.parse("double:3=0.5, double:3.h0-1=0, single:.h2=2")
    assert weights.factor("double", 3, 4) == (0, 0, 0.5, 0.5) and weights.factor("double", 4, 4) == 1
    assert weights.factor("single", 37, 4) == (1, 1, 2, 1) and weights.factor("single", 0, 2) == 1
    assert BlockWeights.parse("single: 1 . h 0 - 23 = .25").factor("single", 1) == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("double:3.h5-24=0", "heads that FLUX.1 does not have; h0-23 exist"),
        ("double:19.h0=0", "blocks that FLUX.1 does not have; double: 0-18 exist"),
        ("double:3.h=0", "cannot be read; write e.g. .* for heads"),
        ("double:3.h0=-1", "has the factor -1; a number from 0 up is needed"),
        ("double:0=-.5", "has the factor -0.5; a number from 0 up is needed"),
        ("single:=nan", "has the factor nan; a number from 0 up is needed"),
        ("single:=inf", "has the factor inf; a number from 0 up is needed"),
    ],
)
def test_wrong_rules_for_heads_are_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockWeights.parse(text)
