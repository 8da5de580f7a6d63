"""Texts that people type: what is a number, and how a sentence repeats the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redux.sweep import parse_values
from redux.typed import SHOWN, read_number, short


@given(st.one_of(st.text(), st.text(min_size=SHOWN).map(lambda text: 50 * text), st.integers(), st.none()))
def test_what_a_sentence_repeats_is_one_short_line(value: object) -> None:
    said = short(value)
    assert "\n" not in said and len(said.encode("utf-8")) <= 6 * SHOWN


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1, two", "1, two"),
        ("a\n  b", "a b"),
        ("x" * SHOWN, "x" * SHOWN),
        ("x" * (SHOWN + 1), "x" * (SHOWN - 1) + "…"),
        ("\ud83d!", "\\ud83d!"),  # half of an emoji, of which UTF-8 knows nothing
        (0.5, "0.5"),
    ],
)
def test_short(value: object, said: str) -> None:
    assert short(value) == said


@pytest.mark.parametrize("word", ["1_0", "1_0.5", "_", "", "a", "1,5", "0x10"])
def test_what_is_no_number(word: str) -> None:
    with pytest.raises(ValueError):
        read_number(word)
    with pytest.raises(ValueError, match="The (value|sweep)"):
        parse_values(word if word != "1,5" else "1.5.")


@pytest.mark.parametrize(("word", "number"), [("10", 10), ("-.5", -0.5), ("1e3", 1000), ("１０", 10), ("٣", 3)])
def test_what_is_one(word: str, number: float) -> None:
    assert read_number(word) == number and parse_values(word) == (number,)
