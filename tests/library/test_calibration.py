"""A calibration finds heads that carry style and heads that carry content, on a painter of which both are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redux.calibration import Course, Picture, Progress, Settings
from redux.calibration.measure import (
    Axes,
    Look,
    Score,
    as_factors,
    as_table,
    choose_cases,
    count_heads,
    draw_halves,
    effects_of,
    score,
    worth,
)
from redux.schedule import ModelName

MODEL = ModelName("tiny", "00ff", 2, 2, 3)
STYLE_HEADS, CONTENT_HEADS, PLACE_HEADS = (1, 4), (6, 7), (9,)
CONTENTS, STYLES = ("cat", "house", "boat"), ("ink", "oil", "clay")
SETTINGS = Settings(CONTENTS, STYLES, cases=4, pairs=24)


class Stopped(Exception):
    pass


class KnownPainter:
    """Style, content and place of the reference pass through some heads each, and with a little noise."""

    model, about = MODEL, "known"

    def __init__(self, stop: int = 10**9) -> None:
        self.painted: list[Picture] = []
        self.stop = stop

    def look(self, picture: Picture) -> Look:
        if len(self.painted) >= self.stop:
            raise Stopped
        self.painted.append(picture)
        passes = dict.fromkeys(("style", "content", "place"), 0.0)
        if picture.reference is not None:
            factors = torch.ones(count_heads(MODEL)) if picture.weights is None else as_factors(picture.weights)
            for name, heads in zip(passes, (STYLE_HEADS, CONTENT_HEADS, PLACE_HEADS), strict=True):
                passes[name] = float(factors[list(heads)].mean().clamp(max=1))
        own, given = self._vectors(picture.text), self._vectors((picture.reference or picture).text)
        style, content, place = (
            torch.lerp(own[name], given[name], passes[name]) for name in ("style", "content", "place")
        )
        noise = 0.02 * torch.randn(16, generator=torch.Generator().manual_seed(len(self.painted)))
        return Look(torch.cat((style, content)) + noise, place)

    def _vectors(self, text: str) -> dict[str, torch.Tensor]:
        content, _, style = text.partition(", ")
        named = {"style": f"style {style}", "content": f"content {content}", "place": f"place {text}"}
        return {
            name: torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, word)) * 7))
            for name, word in named.items()
        }


def test_presets_keep_the_heads_that_carry_what_they_are_for(tmp_path: Path) -> None:
    presets = Course(KnownPainter(), SETTINGS, tmp_path).run()
    for name, wanted, unwanted in (
        ("style", STYLE_HEADS, CONTENT_HEADS),
        ("composition", PLACE_HEADS, STYLE_HEADS),
        ("subject", CONTENT_HEADS, STYLE_HEADS),
    ):
        factors = as_factors(presets.tables[name])
        assert factors[list(wanted)].min() > 0 and factors[list(unwanted)].max() == 0, (name, factors)
        assert presets.measured["presets"][name]["worth"] > 0.8


def test_effects_are_what_each_head_adds() -> None:
    halves = [half for pair in draw_halves(MODEL, 40) for half in pair]
    true = torch.zeros(count_heads(MODEL))
    true[[1, 4]], true[6] = 0.4, -0.2

    def scored(half: dict[str, list[list[float]]]) -> Score:
        value = 0.1 + float(as_factors(half) @ true)
        return Score(
            dict.fromkeys(("style", "content", "place"), value), dict.fromkeys(("style", "content", "place"), 2.0)
        )

    found = effects_of(halves, [scored(half) for half in halves], MODEL)["style"]
    assert float((found - true).abs().max()) < 0.05


def test_halves_come_in_pairs_and_more_of_them_begin_with_the_same() -> None:
    few, many = list(draw_halves(MODEL, 3)), list(draw_halves(MODEL, 5))
    assert many[:3] == few
    for one, other in many:
        assert torch.equal(as_factors(one), 1 - as_factors(other))


def test_a_stopped_calibration_paints_only_what_is_missing(tmp_path: Path) -> None:
    whole = KnownPainter()
    expected = Course(whole, SETTINGS, tmp_path / "whole").run()
    first, second = KnownPainter(stop=30), KnownPainter()
    with pytest.raises(Stopped):
        Course(first, SETTINGS, tmp_path / "stopped").run()
    second.painted += first.painted  # the noise goes on as well
    course = Course(second, SETTINGS, tmp_path / "stopped")
    found = course.run()
    assert found == expected
    assert [picture.key for picture in second.painted] == [picture.key for picture in whole.painted]
    course.forget()
    assert not any((tmp_path / "stopped").iterdir())


def test_another_model_or_manner_begins_anew(tmp_path: Path) -> None:
    Course(KnownPainter(), SETTINGS, tmp_path).run()
    other = KnownPainter()
    other.model = replace(MODEL, digest="11ee")
    Course(other, SETTINGS, tmp_path).run()
    assert len(other.painted) > 100


def test_time_is_estimated_before_the_start_and_the_number_of_pictures_follows_it(tmp_path: Path) -> None:
    said: list[Progress] = []
    Course(KnownPainter(), replace(SETTINGS, pairs=None, minutes=0.001), tmp_path, said.append).run()
    assert said[0].seconds is not None and said[2].total == said[-1].total == said[-1].done
    assert said[-1].seconds == 0


def test_cases_never_name_what_the_reference_shows() -> None:
    for count in (1, 4, 20):
        cases = choose_cases(4, 4, count)
        assert len(cases) == count and all(case.content != case.reference[0] for case in cases)
        assert len({(case.content, case.reference) for case in cases}) == count


def test_progress_is_nothing_at_the_text_and_one_at_plain_redux() -> None:
    generator = torch.Generator().manual_seed(3)
    looks = [Look(torch.randn(12, generator=generator), torch.randn(9, generator=generator)) for _ in range(2)]
    axes = Axes.of(torch.randn(3, 3, 12, generator=generator))
    assert set(score(looks[0], *looks, axes).progress.values()) == {0.0}
    assert score(looks[1], *looks, axes).progress == pytest.approx(dict.fromkeys(("style", "content", "place"), 1.0))
    assert float((axes.style.T @ axes.content).abs().max()) < 1e-5
    for end, value in ((0, 0.0), (1, 0.0)):
        assert worth([score(looks[end], *looks, axes)], "style") == pytest.approx(value, abs=1e-6)


def test_a_look_knows_places_by_likeness_alone() -> None:
    """Channels may be swapped or change their signs: the structure stays; another order of positions is another one."""
    features = torch.randn(64, 24, generator=torch.Generator().manual_seed(1))
    look = Look.of(features, (8, 8))
    assert torch.allclose(look.structure, Look.of(-features.flip(1), (8, 8)).structure, atol=1e-5)
    assert not torch.allclose(look.structure, Look.of(features.flip(0), (8, 8)).structure, atol=0.1)
    assert look.structure.shape == Look.of(torch.randn(27 * 27, 24), (27, 27)).structure.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contents": ("cat", "cat")}, "There are 1 different contents; at least 2 are needed"),
        ({"styles": ()}, "There are 0 different styles; at least 2 are needed"),
        ({"minutes": float("nan")}, "6 cases in nan minutes cannot be calibrated"),
        ({"cases": 0}, "0 cases in 15 minutes cannot be calibrated"),
    ],
)
def test_impossible_settings_are_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**changes)  # type: ignore[arg-type]


def test_a_table_is_its_factors(tmp_path: Path) -> None:
    factors = torch.arange(12.0)
    assert torch.equal(as_factors(as_table(factors, MODEL)), factors)
