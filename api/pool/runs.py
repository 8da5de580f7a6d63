"""The runs: who computes a job, whether it still does, and the one answer. The truth of the pool's backend.

A job may be computed more than once, since brokers deliver at least once; it is answered once, by the first `finish`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from .. import jobs
from ..backend import QUEUED, RUNNING, Finished
from .database import Database, runs
from .database import jobs as jobs_table
from .run import GRANTED, HELD, OVER, Claim, Depth, Run
from .tallies import Tallies

FINISHED = "finished"
KEPT, CANCELED, LOST = "kept", "canceled", "lost"
SILENT, DIED, GIVEN_BACK = "worker silent", "host died", "given back"
"""Why an attempt ended without an answer."""
# The values of statements that are built once, since building one takes longer than running it.
ID = sa.bindparam("the_id", type_=sa.Text)
WORKER, ANSWER = sa.bindparam("the_worker", type_=sa.Text), sa.bindparam("the_answer", type_=sa.Text)
LEASE_SECONDS = 20.0
"""A worker that has not been heard of for so long holds its run no longer. It beats several times in this time."""


class Runs:
    """What each method changes of a run it changes in one statement: whole or not at all, however its caller dies.

    Args:
        lease: seconds; see LEASE_SECONDS.
        tell: is called with a job's id when it has moved: begun, a step further, given back or ended.

    Raises:
        StoreError: from each method, while the database does not answer.
    """

    def __init__(
        self, database: Database, lease: float = LEASE_SECONDS, tell: Callable[[str], None] = lambda id: None
    ) -> None:
        self.database, self.lease, self.tell, self.tallies = database, lease, tell, Tallies(database)

    @cached_property
    def _taking(self) -> Any:
        new = {"state": RUNNING, "worker": WORKER, "attempt": runs.c.attempt + 1, "step": 0}
        new |= {"beat": self.database.now, "started": self.database.now}
        new |= {"vanished": runs.c.vanished + sa.case((runs.c.state == RUNNING, 1), else_=0)}
        statement = runs.update().where(runs.c.id == ID, sa.not_(runs.c.canceled)).values(**new)
        return statement.returning(runs.c.attempt, runs.c.deaths, runs.c.vanished)

    @cached_property
    def _taking_waiting(self) -> Any:
        return self._taking.where(runs.c.state == QUEUED)

    @cached_property
    def _ending(self) -> Any:
        unended = runs.update().where(runs.c.id == ID, runs.c.state != FINISHED)
        ended = unended.values(state=FINISHED, answer=ANSWER, ended=self.database.now)
        return ended.returning(runs.c.worker, runs.c.attempt, runs.c.created, runs.c.started, runs.c.ended)

    def claim(self, id: str, worker: str) -> Claim:
        """Take a run for a worker: one that waits, its own of before, or one whose worker is not heard of any more."""
        claim = self._take(id, worker, self._taking_waiting)
        if claim:
            return claim
        age = (self.database.now - runs.c.beat).label("age")
        before = next(iter(self.database.run(sa.select(runs, age).where(runs.c.id == id))), None)
        if before is None or before.state == FINISHED:
            return Claim(OVER)
        if before.state == QUEUED:  # given back in this moment, or a cancel was cut short
            return Claim(OVER if self._end(id, _CANCELED, runs.c.state == QUEUED, runs.c.canceled) else HELD)
        silent = sa.or_(runs.c.beat <= self.database.now - self.lease, runs.c.worker == worker)
        vacant = sa.and_(runs.c.state == RUNNING, runs.c.attempt == before.attempt, silent)
        if before.canceled:
            over = self._end(id, _CANCELED, vacant)
        else:
            claim, over = self._take(id, worker, self._taking.where(vacant)), False
        if claim:
            self.tallies.retried(before.worker, SILENT, before.beat - before.started)
        seconds = max(0.0, self.lease - before.age)
        return claim if claim else Claim(OVER) if over else Claim(HELD, seconds=seconds)

    def _take(self, id: str, worker: str, taking: Any) -> Claim:
        rows = self.database.run(taking, {ID.key: id, WORKER.key: worker})
        if not rows:
            return Claim(HELD)
        self.tell(id)
        return Claim(GRANTED, *rows[0])

    def _end(self, id: str, answer: str, *conditions: Any) -> bool:
        """Whether this has ended one that was not."""
        ending = self._ending.where(*conditions) if conditions else self._ending
        rows = self.database.run(ending, {ID.key: id, ANSWER.key: answer})
        for row in rows:
            self.tell(id)
            self._tally(row, answer)
        return bool(rows)

    def _tally(self, row: Any, answer: str) -> None:
        values = json.loads(answer)
        result = jobs.CANCELED if values["canceled"] else jobs.FAILED if values["error"] else jobs.COMPLETED
        began = (row.started - row.created, row.ended - row.started) if row.worker else ()
        self.tallies.ended(row.worker, result, *began)

    def beat(self, id: str, attempt: int, step: int = 0, steps: int = 0) -> str:
        """Say that an attempt still runs: KEPT; CANCELED, stop it and `finish` it so; LOST, another has it, stop it."""
        mine = sa.and_(runs.c.id == id, runs.c.attempt == attempt, runs.c.state == RUNNING)
        progress = {"step": step, "steps": steps} if steps else {}
        statement = runs.update().where(mine).values(beat=self.database.now, **progress).returning(runs.c.canceled)
        for (canceled,) in self.database.run(statement):
            if steps:
                self.tell(id)
            return CANCELED if canceled else KEPT
        return LOST

    def release(self, id: str, attempt: int, died: bool) -> bool:
        """Give an attempt back, so that the next `claim` is granted at once.

        Args:
            died: the host has died on it, which counts in `deaths`; else it is as if it had not been begun.
        """
        mine = sa.and_(runs.c.id == id, runs.c.attempt == attempt, runs.c.state == RUNNING)
        before = next(iter(self.database.run(sa.select(runs, self.database.now.label("now")).where(mine))), None)
        if before is None:
            return False
        new = {"state": QUEUED, "worker": "", "beat": None, "step": 0, "deaths": runs.c.deaths + int(died)}
        if self.database.count(runs.update().where(mine, sa.not_(runs.c.canceled)).values(**new)):
            self.tell(id)
            self.tallies.retried(before.worker, DIED if died else GIVEN_BACK, before.now - before.started)
            return True
        return self._end(id, _CANCELED, mine)

    def finish(self, id: str, attempt: int, end: Finished) -> bool:
        """Answer. True for the attempt whose answer counts, however often it says so; False for every other.

        An answer is taken from a lost attempt too, as long as it is the first.
        """
        if self._end(id, json.dumps({**asdict(end), "attempt": attempt})):
            return True
        rows = self.database.run(sa.select(runs.c.answer).where(runs.c.id == id))
        return any(json.loads(text or "{}").get("attempt") == attempt for (text,) in rows)

    def cancel(self, id: str) -> bool:
        """End a run that waits (True); ask the worker of one that runs to stop it (False, as for what is over)."""
        asked = self.database.run(
            runs.update().where(runs.c.id == id, runs.c.state != FINISHED).values(canceled=True).returning(runs.c.state)
        )
        # What waits and is canceled is claimed by nobody, so it still waits now.
        return bool(asked) and asked[0].state == QUEUED and self._end(id, _CANCELED)

    def get(self, ids: Collection[str]) -> dict[str, Run]:
        """The runs of those jobs that have one."""
        found: dict[str, Run] = {}
        wanted = list(ids)
        for start in range(0, len(wanted), 500):
            rows = self.database.run(_GETTING, {"the_ids": wanted[start : start + 500]})
            found |= {row.id: _from_row(row) for row in rows}
        return found

    def moved(self) -> dict[str, Run]:
        """The runs that are begun or over, of jobs whose end no gateway has written yet.

        A job is written with its run, so what is neither among these nor ended waits.
        """
        return {row.id: _from_row(row) for row in self.database.run(_MOVING)}

    def note_published(self, ids: Collection[str]) -> None:
        """The broker has taken a message for each of these runs."""
        self.database.count(runs.update().where(runs.c.id.in_(ids)).values(published=self.database.now))

    def unpublished(self, after: float, again: float, limit: int = 100) -> list[tuple[str, str]]:
        """Runs that need a message, as pairs of id and queue, the oldest first. One message too many does no harm.

        Args:
            after: seconds for a gateway to publish what it has accepted; then it was killed in between.
            again: seconds after which the message of a run that waits counts as lost with its broker. A run whose
                worker is silent for two leases needs one too.
        """
        since = sa.case(
            (runs.c.state == RUNNING, runs.c.beat), else_=sa.func.coalesce(runs.c.published, runs.c.created)
        )
        patience = sa.case((runs.c.state == RUNNING, 2 * self.lease), (runs.c.published.is_(None), after), else_=again)
        needy = sa.and_(runs.c.state != FINISHED, self.database.now - since > patience)
        statement = sa.select(runs.c.id, runs.c.queue).where(needy).order_by(runs.c.created).limit(limit)
        return [(id, queue) for id, queue in self.database.run(statement)]

    def depths(self) -> list[Depth]:
        """What waits and what runs, queue by queue; queues without either are left out."""
        age = sa.func.max(self.database.now - runs.c.created)
        statement = sa.select(runs.c.queue, runs.c.state, sa.func.count(), age).where(runs.c.state != FINISHED)
        grouped = statement.group_by(runs.c.queue, runs.c.state).order_by(runs.c.queue, runs.c.state)
        return [
            Depth(queue, state, count, max(0.0, oldest)) for queue, state, count, oldest in self.database.run(grouped)
        ]

    def current(self) -> list[tuple[str, float]]:
        """Who runs something now, and for how many seconds so far, as far as its worker was heard of."""
        statement = sa.select(runs.c.worker, runs.c.beat - runs.c.started).where(runs.c.state == RUNNING)
        return [(worker, max(0.0, seconds)) for worker, seconds in self.database.run(statement)]


_GETTING = sa.select(runs).where(runs.c.id.in_(sa.bindparam("the_ids", expanding=True)))
_MOVING = sa.select(runs).join(jobs_table, jobs_table.c.id == runs.c.id)
_MOVING = _MOVING.where(jobs_table.c.finished.is_(None), runs.c.state != QUEUED)
_CANCELED = json.dumps({**asdict(Finished(canceled=True)), "attempt": 0})


def _from_row(row: Any) -> Run:
    values = dict(row._mapping)
    answer = values.pop("answer")
    if values["state"] == FINISHED:
        values["state"] = _read_answer(answer, row.started)
    return Run(**values)


def _read_answer(text: str, started: float | None) -> Finished:
    values = json.loads(text)
    outputs, flags = tuple(values["outputs"]), tuple(values["flags"])
    return Finished(outputs, flags, values["error"], values["canceled"], values["started"] or started)
