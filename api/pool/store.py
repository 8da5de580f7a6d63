"""The jobs as gateways see them, with the runner's interface of job_store.JobStore, in a database that they share."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from ..jobs import Job, Repeated, job_from_json, job_to_json
from .database import Database, StoreError, jobs, runs

__all__ = ["PoolStore", "StoreError"]

LOOK_SECONDS = 0.25
"""How old this gateway's picture of the others' jobs may be."""
PAGE = 200
DEFAULT_QUEUE = "redux"


class PoolStore:
    """Jobs by id. Any number of gateways may use one store: what one of them ends is ended for all.

    A new job and its run (see runs.py) are written together, so a job that a gateway has accepted is never without
    a run, whenever that gateway is killed.

    Args:
        url: of the database; see database.Database.
        queue: where the runs of this gateway's jobs wait.

    Raises:
        StoreError: the database does not answer, or is of a newer version.
        ValueError: the URL is of no database that is known here.
    """

    def __init__(self, url: str, queue: str = DEFAULT_QUEUE) -> None:
        self.database, self.queue = Database(url), queue
        self.known: dict[str, Job] = {}
        self.versions: dict[str, int] = {}
        self.looked = -math.inf

    def close(self) -> None:
        self.database.close()

    @property
    def live(self) -> dict[str, Job]:
        """The jobs of all gateways that are not done, by id: one's own changes at once, others' after LOOK_SECONDS."""
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.refresh()
        return self.known

    def refresh(self) -> None:
        """Read what other gateways have changed. Only what has changed is read whole."""
        found: dict[str, int] = dict(map(tuple, self.database.run(_UNFINISHED)))
        new = [id for id, version in found.items() if self.versions.get(id) != version]
        self.known = {id: job for id, job in self.known.items() if id in found}
        self.versions = {id: version for id, version in self.versions.items() if id in found}
        for start in range(0, len(new), PAGE):
            for row in self._rows(jobs.c.id.in_(new[start : start + PAGE])):
                self._remember(row.version, _from_row(row))
        self.looked = time.monotonic()

    def get(self, id: str) -> Job | None:
        return self._one("id", id)

    def by_link(self, link: str) -> Job | None:
        return self._one("link", link)

    def by_key(self, key: str) -> Job | None:
        """The job of a request that was to be taken once, whichever gateway has taken it."""
        return self._one("key", key)

    def recent(
        self, vendor: str, owner: str, beside: tuple[float, str] | None = None, newer: bool = False
    ) -> Iterator[Job]:
        """See job_store.JobStore.recent."""
        place = sa.tuple_(jobs.c.created, jobs.c.id)
        order = (jobs.c.created, jobs.c.id) if newer else (jobs.c.created.desc(), jobs.c.id.desc())
        end = beside or ((0.0, "") if newer else (math.inf, ""))
        mine = sa.and_(jobs.c.vendor == vendor, jobs.c.owner == owner)
        while True:
            beyond = place > sa.tuple_(*end) if newer else place < sa.tuple_(*end)
            rows = self.database.run(sa.select(jobs).where(mine, beyond).order_by(*order).limit(PAGE))
            for row in rows:
                yield self._stepped(_from_row(row))
            if len(rows) < PAGE:
                return
            end = (rows[-1].created, rows[-1].id)

    def put(self, job: Job, queue: str = "") -> Job:
        """Write a job, and its run where it is new and not done; in this gateway's queue, where none is named.

        Raises:
            Repeated: there is another job of its key.
        """
        run = {"id": job.id, "queue": queue or self.queue, "steps": job.steps}
        try:
            with self.database.transaction() as connection:
                version = int(connection.scalar(self._writing, {**_to_row(job), "version": 0}) or 0)
                if not job.done and version == 0:
                    connection.execute(self._starting, run)
        except sa.exc.IntegrityError:
            other = self.by_key(job.key)
            raise Repeated(other) if other else StoreError("another job of the same key was removed just now") from None
        return self._remember(version, job)

    def update(self, job: Job, **changes: Any) -> Job:
        """The job with some of its fields changed. What is done or removed stays so, whichever gateway has done it."""
        known = self.known.get(job.id)
        if known and (new := self._change(known, self.versions[job.id], changes)):
            return new
        while True:
            row = next(iter(self.database.run(_FINDING["id"], {"it": job.id})), None)
            if row is None:
                return replace(job, **changes)
            current = self._stepped(_from_row(row))
            if current.done:
                return self._remember(row.version, current)
            if new := self._change(current, row.version, changes):
                return new

    def _change(self, current: Job, version: int, changes: Mapping[str, Any]) -> Job | None:
        """The changed job; None where the store no longer has this version of it."""
        new = replace(current, **changes)
        row = {**_to_row(new), "version": version + 1, "it": new.id, "before": version}
        return self._remember(version + 1, new) if self.database.count(_CHANGING, row) else None

    def note_progress(self, id: str, step: int, steps: int) -> None:
        """Steps are for callers who look while it runs; they are not worth a write each."""
        if id in self.known:
            self.known[id] = replace(self.known[id], step=step, steps=steps)

    def old(self, before: float) -> list[Job]:
        """The jobs that were done before a time, and those made before it that cannot be read.

        The latter are left as they are: a newer gateway beside this one may well read them.
        """
        unfinished = sa.and_(jobs.c.finished.is_(None), jobs.c.created < before)
        found = [_from_row(row) for row in self._rows(sa.or_(jobs.c.finished < before, unfinished))]
        return [job for job in found if job.done]

    def remove(self, id: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(jobs.delete().where(jobs.c.id == id))
            connection.execute(runs.delete().where(runs.c.id == id))
        self._forget(id)

    @cached_property
    def _writing(self) -> Any:
        insert = self.database.insert(jobs)
        changes: dict[str, Any] = {column.name: insert.excluded[column.name] for column in jobs.c}
        changes["version"] = jobs.c.version + 1
        return insert.on_conflict_do_update(index_elements=["id"], set_=changes).returning(jobs.c.version)

    @cached_property
    def _starting(self) -> Any:
        fixed = {
            "state": "queued",
            "worker": "",
            "attempt": 0,
            "deaths": 0,
            "vanished": 0,
            "step": 0,
            "canceled": False,
        }
        return self.database.insert(runs).values(created=self.database.now, **fixed).on_conflict_do_nothing()

    def _remember(self, version: int, job: Job) -> Job:
        if job.done:
            self._forget(job.id)
            self.versions[job.id] = version  # of one that cannot be read, which is not done for all
            return job
        self.known[job.id], self.versions[job.id] = self._stepped(job), version
        return self.known[job.id]

    def _forget(self, id: str) -> None:
        self.known.pop(id, None)
        self.versions.pop(id, None)

    def _stepped(self, job: Job) -> Job:
        """The job with the steps that were noted here."""
        known = self.known.get(job.id)
        return replace(job, step=known.step, steps=known.steps) if known and not job.done else job

    def _one(self, column: str, value: str) -> Job | None:
        rows = self.database.run(_FINDING[column], {"it": value})
        return self._stepped(_from_row(rows[0])) if rows else None

    def _rows(self, condition: Any) -> Sequence[Any]:
        return self.database.run(sa.select(jobs).where(condition).order_by(jobs.c.created, jobs.c.id))


# Built once, since building a statement takes longer than running it.
_UNFINISHED = sa.select(jobs.c.id, jobs.c.version).where(jobs.c.finished.is_(None))
_BY = {name: jobs.c[name] == sa.bindparam("it") for name in ("id", "link", "key")}
_FINDING = {name: sa.select(jobs).where(condition) for name, condition in _BY.items()}
_CHANGING = jobs.update().where(_BY["id"], jobs.c.version == sa.bindparam("before"))


def _to_row(job: Job) -> Mapping[str, Any]:
    return {
        "id": job.id,
        "vendor": job.vendor,
        "owner": job.owner,
        "status": job.status,
        "created": job.created,
        "finished": job.finished,
        "content": job_to_json(job),
        "link": job.link,
        "key": job.key or None,
    }


def _from_row(row: Any) -> Job:
    job = job_from_json(row.id, row.vendor, row.created, row.content)
    return replace(job, link=row.link or job.link, finished=row.finished or job.finished)
