"""Who goes first: callers of the first keys, then those who have the fewest jobs under way."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..auth import name_caller
from ..jobs import CREATED, Job
from .app import TOP_PRIORITY

STEPS = (1, 2, 4, 8)
"""A key's first waiting job is of the highest level, its second of the next; from the eighth on all are of the last."""
FIRST = len(STEPS) + 1
"""What the jobs of the first keys have beyond the others'."""
AGED = TOP_PRIORITY
"""Of what has waited for long: nobody is passed by for ever."""


def priority_of(job: Job, live: Iterable[Job], first: Collection[str]) -> int:
    """A job's place in the broker's queue, from 0 to 9.

    Keys take turns: one that has many jobs waiting is behind one that has few, however early it came.

    Args:
        live: the jobs that are not done; this one may be among them.
        first: owners who go before all others.
    """
    before = sum(other.owner == job.owner and other.status == CREATED and other.id != job.id for other in live)
    level = sum(before < step for step in STEPS)
    return level + (FIRST if job.owner in first else 0)


def owner_of(key: str) -> str:
    """The owner as jobs have it."""
    return name_caller({"Authorization": f"Bearer {key}"}, (key,))
