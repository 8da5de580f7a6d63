"""The course of a calibration: which pictures are painted, in which order, and what is kept in case it is stopped."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..presets import Presets, Table
from ..schedule import ModelName
from .measure import (
    AIMS,
    GAINS,
    KEPT,
    MEASURES,
    Axes,
    Case,
    Look,
    Score,
    candidates,
    choose_cases,
    draw_halves,
    effects_of,
    mean_progress,
    score,
    worth,
)

CONTENTS = ("a cat", "a bicycle", "a wooden house", "a bowl of fruit")
STYLES = ("oil painting", "black and white photograph", "flat vector illustration", "crayon drawing by a child")
MOST_PAIRS, LEAST_PAIRS = 600, 16


@dataclass(frozen=True)
class Picture:
    """A picture to paint: with a reference, that one is painted first. `weights` are factors of its heads."""

    text: str
    seed: int
    reference: Picture | None = None
    weights: Table | None = None

    @property
    def key(self) -> str:
        parts = [self.text, self.seed, self.reference and self.reference.key, self.weights]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


class Painter(Protocol):
    """What paints. `model` is the FLUX; `about` names all that the pictures depend on besides it."""

    model: ModelName
    about: str

    def look(self, picture: Picture) -> Look:
        """Paint a picture and look at it."""
        ...


@dataclass(frozen=True)
class Settings:
    """What is painted.

    Attributes:
        contents, styles: words for them, at least two of each; a picture's text is "content, style".
        cases: prompts with a reference by which heads and candidates are judged.
        minutes: about how long it may take; random halves are as many as there is time for.
        pairs: how many pairs of halves instead.

    Raises:
        ValueError: too few contents or styles, or an impossible number.
    """

    contents: tuple[str, ...] = CONTENTS
    styles: tuple[str, ...] = STYLES
    cases: int = 6
    minutes: float = 15.0
    pairs: int | None = None

    def __post_init__(self) -> None:
        for what, words in (("contents", self.contents), ("styles", self.styles)):
            if len(set(words)) < 2:
                raise ValueError(f"There are {len(set(words))} different {what}; at least 2 are needed, one a line.")
        if self.cases < 1 or not 0 < self.minutes < 1e6 or (self.pairs is not None and self.pairs < 1):
            raise ValueError(
                f"{self.cases} cases in {self.minutes:g} minutes cannot be calibrated; numbers above 0 are needed."
            )


@dataclass(frozen=True)
class Progress:
    """Pictures that are there, of how many, and about how many seconds the others take; None = not known yet."""

    done: int
    total: int
    seconds: float | None


class Course:
    """One calibration. `run` may be stopped at any picture, and goes on there when it is called again.

    Args:
        folder: where looks at pictures are kept meanwhile; several calibrations may share it.
    """

    def __init__(
        self, painter: Painter, settings: Settings, folder: Path, report: Callable[[Progress], None] = lambda _: None
    ) -> None:
        self.painter, self.settings, self.report = painter, settings, report
        facts = [painter.model.digest, painter.about]
        self.folder = folder / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        self.done = self.total = 0
        self._spent: list[float] = []

    def run(self) -> Presets:
        self.folder.mkdir(parents=True, exist_ok=True)
        cases = choose_cases(len(self.settings.contents), len(self.settings.styles), self.settings.cases)
        fixed = self._count_fixed(len(cases))
        self.done, self.total = 0, fixed + 2 * (self.settings.pairs or LEAST_PAIRS)
        for style in (0, 1):  # which tell how long a picture takes
            self._look(self._reference((0, style)))
        pairs = self._count_pairs(fixed)
        self.done, self.total = 0, fixed + 2 * pairs
        grid = [[self._look(self._reference((c, s))) for s in self._styles] for c in self._contents]
        axes = Axes.of(torch.stack([torch.stack([look.statistics for look in row]) for row in grid]))
        ends = [(self._look(self._plain(case)), self._look(self._weigh(case, None))) for case in cases]

        def judge(index: int, table: Table) -> Score:
            look = self._look(self._weigh(cases[index], table))
            return score(look, *ends[index], axes)

        halves = [half for pair in draw_halves(self.painter.model, pairs) for half in pair]
        scores = [judge(number // 2 % len(cases), half) for number, half in enumerate(halves)]
        effects = effects_of(halves, scores, self.painter.model)
        chosen = {
            name: self._choose(name, candidates(effects, name, self.painter.model), judge, len(cases)) for name in AIMS
        }
        tables = {name: table for name, (table, _) in chosen.items()}
        measured = {
            "pictures": self.total,
            "effects": {name: [round(value, 5) for value in effect.tolist()] for name, effect in effects.items()},
            "presets": {name: found for name, (_, found) in chosen.items()},
        }
        return Presets(self.painter.model, tables, measured)

    def forget(self) -> None:
        """Remove what was kept for going on."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()

    def _choose(
        self, name: str, tables: Iterator[Table], judge: Callable[[int, Table], Score], cases: int
    ) -> tuple[Table, dict[str, float]]:
        found: list[tuple[float, Table, Sequence[Score]]] = []
        for table in tables:
            scores = [judge(index, table) for index in range(cases)]
            found.append((worth(scores, name), table, scores))
        value, table, best = max(found, key=lambda one: one[0])
        means = {measure: round(mean_progress(best, measure), 4) for measure in MEASURES}
        return table, {**means, "worth": round(value, 4)}

    @property
    def _contents(self) -> range:
        return range(len(self.settings.contents))

    @property
    def _styles(self) -> range:
        return range(len(self.settings.styles))

    def _count_fixed(self, cases: int) -> int:
        pictures = len(self._contents) * len(self._styles)
        return pictures + cases * (2 + len(AIMS) * len(KEPT) * len(GAINS))

    def _count_pairs(self, fixed: int) -> int:
        """So many as there is time for; what was decided before a stop stays."""
        if self.settings.pairs is not None:
            return self.settings.pairs
        path = self.folder / f"pairs-{self.settings.minutes:g}"
        try:
            return int(path.read_text("ascii"))
        except (OSError, ValueError):
            each = self._seconds_each() or 1.0
            pairs = max(LEAST_PAIRS, min(MOST_PAIRS, int((60 * self.settings.minutes / each - fixed) / 2)))
            path.write_text(str(pairs), "ascii")
            return pairs

    def _seconds_each(self) -> float | None:
        """Of one picture; the first warms up, and does not count where there are others."""
        timed = self._spent[1:] or self._spent
        return sum(timed) / len(timed) if timed else None

    def _reference(self, place: tuple[int, int]) -> Picture:
        content, style = self.settings.contents[place[0]], self.settings.styles[place[1]]
        return Picture(f"{content}, {style}", 100 + place[0] * len(self._styles) + place[1])

    def _plain(self, case: Case) -> Picture:
        return Picture(self.settings.contents[case.content], case.seed)

    def _weigh(self, case: Case, weights: Table | None) -> Picture:
        return replace(self._plain(case), reference=self._reference(case.reference), weights=weights)

    def _look(self, picture: Picture) -> Look:
        path = self.folder / f"{picture.key}.safetensors"
        look = _read(path)
        if look is None:
            start = time.monotonic()
            look = self.painter.look(picture)
            self._spent.append(time.monotonic() - start)
            _write(path, look)
        self.done += 1
        each = self._seconds_each()
        left = self.total - self.done
        self.report(Progress(self.done, self.total, None if each is None else each * left))
        return look


def _read(path: Path) -> Look | None:
    """None where nothing whole is there."""
    try:
        return Look(**load_file(path))
    except (FileNotFoundError, SafetensorError, TypeError):
        return None


def _write(path: Path, look: Look) -> None:
    part = path.with_suffix(".part")
    save_file({"statistics": look.statistics.contiguous(), "structure": look.structure.contiguous()}, part)
    os.replace(part, path)
