"""The miniature's text: a table of words instead of a text encoder.

A file has one tensor `words.weight` [V, D] and the words as a JSON list in the metadata key `redux.words`; the first
word is "" and stands for an empty prompt. A word may be a phrase of several words; the longest phrase wins. A word that
the list holds several times gives a token for each of its rows, so that more attention goes to it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .identify import identify
from .tensor_files import open_files

METADATA_KEY = "redux.words"
WEIGHT_KEY = "words.weight"


def _read_words(text: str) -> tuple[str, ...]:
    """The words of the metadata; none when they are no JSON list of texts."""
    try:
        words = json.loads(text)
    except ValueError:
        return ()
    return tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else ()


@dataclass(frozen=True, eq=False)
class WordTable:
    """weight_VD [V, D] and one word or phrase for each row, in lower case."""

    weight_VD: Tensor
    words: tuple[str, ...]

    @classmethod
    def load(cls, path: str | Path) -> WordTable:
        """Read a word table.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
        """
        files = open_files(path)
        shape, text = files.shapes.get(WEIGHT_KEY), files.metadata.get(METADATA_KEY)
        if shape is None or text is None:
            raise ValueError(
                f"{files.path.name} is {identify(files.shapes)}; a word table of the miniature is needed, "
                "e.g. redux-mini-words.safetensors in models/text_encoders."
            )
        words = _read_words(text)
        if len(shape) != 2 or len(words) != shape[0]:
            raise ValueError(f"{files.path.name} has a table {shape} for {len(words)} words; it is damaged.")
        with files.reader() as reader:
            return cls(reader.read(WEIGHT_KEY).clone(), words)

    def ids(self, text: str) -> list[int]:
        """Rows of the words found in a sentence, in order; others are skipped; [0] when there is none."""
        index: dict[str, list[int]] = {}
        for row, word in enumerate(self.words):
            if word:
                index.setdefault(word, []).append(row)
        longest = max((word.count(" ") + 1 for word in index), default=0)
        parts = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())
        found, start = [], 0
        while index and start < len(parts):
            for length in range(min(longest, len(parts) - start), 0, -1):
                rows = index.get(" ".join(parts[start : start + length]), [])
                if rows:
                    found += rows
                    break
            start += length if rows else 1
        return found or [0]
