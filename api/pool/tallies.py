"""What the pool has done so far, counted in the database as it happens, so that no process's end forgets it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from .database import Database, StoreError, tallies

WAIT_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
RUN_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
MORE = "+Inf"
ENDED, BUSY, RETRIED, WAIT, RUN = "ended", "busy", "retried", "wait", "run"
SUM = "_sum"


class Tallies:
    """Each host has rows of its own, so hosts do not wait for one another. A count that cannot be written is lost."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.statements: dict[int, Any] = {}

    def ended(self, host: str, result: str, wait: float | None = None, run: float | None = None) -> None:
        """A job is answered.

        Args:
            host: the worker that had it last; "" for one that nobody began.
            result: completed, failed or canceled.
            wait: seconds from its making to the start of the attempt that is answered.
            run: seconds of that attempt.
        """
        amounts = {(ENDED, result): 1.0}
        if wait is not None and run is not None:
            amounts |= {(WAIT, _bucket(WAIT_SECONDS, wait)): 1.0, (WAIT + SUM, ""): wait}
            amounts |= {(RUN, _bucket(RUN_SECONDS, run)): 1.0, (RUN + SUM, ""): run, (BUSY, ""): run}
        self._add(host, amounts)

    def retried(self, host: str, cause: str, busy: float) -> None:
        """An attempt has ended without an answer, and the job waits or runs once more."""
        self._add(host, {(RETRIED, cause): 1.0, (BUSY, ""): busy})

    def read(self) -> list[tuple[str, str, str, float]]:
        """All of them, as host, name, label and value. A bucket counts what is in it alone."""
        columns = (tallies.c.host, tallies.c.name, tallies.c.label, tallies.c.value)
        return [tuple(row) for row in self.database.run(sa.select(*columns).order_by(*columns[:3]))]

    def _add(self, host: str, amounts: Mapping[tuple[str, str], float]) -> None:
        rows = [
            {"host": host, "name": name, "label": label, "value": max(0.0, value)}
            for (name, label), value in sorted(amounts.items())
        ]
        values = {f"{column}_{index}": value for index, row in enumerate(rows) for column, value in row.items()}
        with suppress(StoreError):
            self.database.count(self._adding(len(rows)), values)

    def _adding(self, count: int) -> Any:
        """The statement that adds so many rows at once; built once, since that takes longer than running it."""
        if count not in self.statements:
            columns = ("host", "name", "label", "value")
            rows: list[dict[str, Any]] = [
                {column: sa.bindparam(f"{column}_{index}") for column in columns} for index in range(count)
            ]
            statement = self.database.insert(tallies).values(rows)
            total = tallies.c.value + statement.excluded.value
            self.statements[count] = statement.on_conflict_do_update(index_elements=columns[:3], set_={"value": total})
        return self.statements[count]


def _bucket(bounds: tuple[float, ...], value: float) -> str:
    """The upper bound of the bucket that a value is in, as Prometheus writes it."""
    index = bisect_left(bounds, value)
    return str(bounds[index]) if index < len(bounds) else MORE
