"""Presets: head weights that let a reference give its style, its composition or its subject alone.

What a head of FLUX carries differs between models, so a file of presets is measured on one model (`redux.calibration`)
and refused by any other. It is JSON:

    {"redux": "presets", "version": 1,
     "model": {"name": "flux1-dev", "digest": "…", "double": 19, "single": 38, "heads": 24},
     "presets": {"style": {"double": [[a factor for each head] for each block], "single": …}, …},
     "measured": …}

A factor is one of the reference's strength, from 0 up, as `redux.schedule.BlockWeights` has them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from .schedule import BlockWeights, ModelName, Rule
from .store import new_file
from .typed import short

NAMES = ("style", "composition", "subject")
KIND, VERSION = "presets", 1
Table = dict[str, list[list[float]]]  # kind of block -> for each block the factor of each head


@dataclass(frozen=True)
class Presets:
    """What a file holds.

    Attributes:
        model: for which they were measured.
        tables: by the preset's name.
        measured: what each block and head does, as the calibration found it; read by people only.
    """

    model: ModelName
    tables: Mapping[str, Table]
    measured: Mapping[str, Any] = field(default_factory=dict)

    def block_weights(self, name: str) -> BlockWeights:
        """Raises ValueError: there is no preset of this name."""
        if name not in self.tables:
            raise ValueError(f"There is no preset '{short(name)}'; {', '.join(self.tables)} are there.")
        return BlockWeights(rules_of(self.tables[name]), self.model)

    def save(self, path: str | Path) -> None:
        """Write a new file.

        Raises:
            FileExistsError: the file is there already.
        """
        facts = {
            "redux": KIND,
            "version": VERSION,
            "model": asdict(self.model),
            "presets": self.tables,
            "measured": self.measured,
        }
        with new_file(Path(path)) as partial:
            partial.write_text(json.dumps(facts) + "\n", encoding="ascii")

    @classmethod
    def load(cls, path: str | Path) -> Presets:
        """Read a file.

        Raises:
            FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}; a file of Calibrate Redux is needed.")
        try:
            facts = json.loads(path.read_text("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path.name} is not JSON ({error}); a file of Calibrate Redux is needed.") from error
        if not isinstance(facts, dict) or facts.get("redux") != KIND:
            raise ValueError(f"{path.name} holds no presets; a file of Calibrate Redux is needed.")
        if facts.get("version") != VERSION:
            raise ValueError(
                f"{path.name} is of version {short(facts.get('version'))} and this pack reads version {VERSION}; "
                "update it."
            )
        return cls._read(facts, path.name)

    @classmethod
    def _read(cls, facts: dict[str, Any], file: str) -> Presets:
        try:
            model = ModelName(**facts["model"])
            counts = {"double": int(model.double), "single": int(model.single)}
            heads = int(model.heads)
            tables = dict(facts["presets"].items())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({error}); run Calibrate Redux again.") from error
        for name, table in tables.items():
            check_table(table, counts, heads, f"Preset '{short(name)}' in {file}")
        return cls(model, tables, facts.get("measured") or {})


def check_table(table: Any, counts: Mapping[str, int], heads: int, what: str) -> None:
    """Raises ValueError: blocks or heads that the model does not have, or a factor that is no number from 0 up."""
    kinds = ", ".join(table) if isinstance(table, dict) else _size(table)
    if not isinstance(table, dict) or set(table) != set(counts):
        raise ValueError(f"{what} has weights for '{short(kinds)}'; double and single blocks are needed.")
    for kind, count in counts.items():
        rows = table[kind]
        if _size(rows) != str(count):
            raise ValueError(f"{what} has weights for {_size(rows)} {kind} blocks; its model has {count}.")
        for index, row in enumerate(rows):
            if _size(row) != str(heads):
                raise ValueError(f"{what} has {_size(row)} heads in {kind} block {index}; its model has {heads}.")
            wrong = next((head for head, factor in enumerate(row) if not _is_factor(factor)), None)
            if wrong is not None:
                raise ValueError(
                    f"{what} has the weight {short(row[wrong])} for head {wrong} of {kind} block {index}; a "
                    "number from 0 up is needed."
                )


def _size(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else type(value).__name__


def _is_factor(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def rules_of(table: Table) -> tuple[Rule, ...]:
    """The table as rules, one for neighbouring heads of one factor; factors of 1 need none."""
    rules: list[Rule] = []
    for kind, rows in table.items():
        for index, row in enumerate(rows):
            if len(set(row)) == 1:
                rules += [] if row[0] == 1 else [(kind, index, index, float(row[0]))]
                continue
            first = 0
            for factor, run in groupby(row):
                length = len(list(run))
                if factor != 1:
                    rules.append((kind, index, index, float(factor), first, first + length - 1))
                first += length
    return tuple(rules)
