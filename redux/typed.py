"""What people type: numbers in a text, and how an error repeats what it could not read."""

from __future__ import annotations

SHOWN = 60  # characters that a sentence repeats


def short(value: object) -> str:
    """A value as a sentence can hold it: in one line, its beginning where it is long, and good in any encoding."""
    text = value if isinstance(value, str) else str(value)
    line = " ".join(text[: 2 * SHOWN].split())
    shown = line if len(text) <= 2 * SHOWN and len(line) <= SHOWN else line[: SHOWN - 1] + "…"
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


def read_number(word: str) -> float:
    """A number as people write it; Python also reads 1_0, as 10.

    Raises:
        ValueError: it is none.
    """
    if "_" in word:
        raise ValueError(f"'{short(word)}' is no number.")
    return float(word)
