"""The miniature's word table: which rows a sentence names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from redux.words import METADATA_KEY, WEIGHT_KEY, WordTable
from tools import checkpoints

Write = Callable[..., Path]

WORDS = ("", "a", "cat", "dog", "black cat", "black cat at night", "at", "red", "flat style", "flat style")


@pytest.fixture
def table(write: Write) -> WordTable:
    weights = {WEIGHT_KEY: torch.arange(20.0).reshape(10, 2)}
    return WordTable.load(write("words.safetensors", weights, {METADATA_KEY: json.dumps(WORDS)}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a cat", ["a", "cat"]),
        ("A CAT, a Dog!", ["a", "cat", "a", "dog"]),
        ("a black cat at night", ["a", "black cat at night"]),
        ("a black cat at a dog", ["a", "black cat", "at", "a", "dog"]),
        ("black dog", ["dog"]),
        ("cat-like, category", ["cat"]),
        ("a purple-green thing over a red dog", ["a", "a", "red", "dog"]),
        ("", [""]),
        ("12 ... ?!", [""]),
        ("nothing known", [""]),
    ],
)
def test_the_longest_phrase_wins_and_the_unknown_is_skipped(table: WordTable, text: str, words: list[str]) -> None:
    assert [table.words[row] for row in table.ids(text)] == words


def test_a_word_that_is_listed_twice_gives_two_tokens(table: WordTable) -> None:
    assert table.ids("a cat in flat style") == [1, 2, 8, 9]


def test_a_table_of_the_empty_prompt_alone(table: WordTable) -> None:
    assert WordTable(table.weight_VD[:1], ("",)).ids("a cat") == [0]


def test_the_table_is_a_copy_of_the_file(table: WordTable) -> None:
    assert table.words == WORDS
    assert torch.equal(table.weight_VD, torch.arange(20.0).reshape(10, 2))


@pytest.mark.parametrize(
    ("weights", "metadata", "found"),
    [
        (checkpoints.vae_weights(), {}, "is a TAESD autoencoder; a word table"),
        ({WEIGHT_KEY: torch.zeros(2, 4)}, {}, "a word table of the miniature is needed"),
        ({WEIGHT_KEY: torch.zeros(2, 4)}, {METADATA_KEY: '["", "a", "cat"]'}, r"table \(2, 4\) for 3 words; it"),
        ({WEIGHT_KEY: torch.zeros(2, 4)}, {METADATA_KEY: '["", "a'}, "for 0 words; it is damaged"),
        ({WEIGHT_KEY: torch.zeros(2, 4)}, {METADATA_KEY: "[0, 1]"}, "for 0 words; it is damaged"),
        ({WEIGHT_KEY: torch.zeros(2)}, {METADATA_KEY: '["", "a"]'}, "it is damaged"),
    ],
)
def test_wrong_files(write: Write, weights: dict[str, torch.Tensor], metadata: dict[str, str], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        WordTable.load(write("words.safetensors", weights, metadata))
    with pytest.raises(FileNotFoundError, match="There is no file"):
        WordTable.load("no.safetensors")
