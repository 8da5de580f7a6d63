"""What is known of a job's run, and what a worker may do with it."""

from __future__ import annotations

from dataclasses import dataclass

from ..backend import State
from .settings import PoolSettings

GRANTED, HELD, OVER = "granted", "held", "over"


@dataclass(frozen=True)
class Claim:
    """What a worker may do with a message.

    Attributes:
        verdict: GRANTED, compute it; HELD, another worker does, ask again in `seconds`; OVER, it is answered, canceled
            or unknown, so the message is to be acknowledged and forgotten.
        attempt: the number of this attempt, from 1; names the worker's outputs, and goes into `beat` and `finish`.
        deaths: how often a host has died on it; see Runs.release.
        vanished: how often a worker has gone silent on it, with its host or without.
    """

    verdict: str
    attempt: int = 0
    deaths: int = 0
    vanished: int = 0
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.verdict == GRANTED


@dataclass(frozen=True)
class Run:
    """One job's way through the pool. Times are seconds since 1970 by the database's clock."""

    id: str
    state: State
    queue: str
    created: float
    published: float | None
    worker: str
    attempt: int
    deaths: int
    vanished: int
    beat: float | None
    started: float | None
    ended: float | None
    step: int
    steps: int
    canceled: bool


@dataclass(frozen=True)
class Depth:
    """How many runs of a queue are QUEUED or RUNNING, and the age of the oldest in seconds."""

    queue: str
    state: str
    count: int
    oldest: float


def is_poisoned(settings: PoolSettings, deaths: int, vanished: int) -> bool:
    return deaths >= settings.max_deaths or deaths + vanished >= settings.max_losses


def poisoned(deaths: int, vanished: int) -> str:
    return f"The job was given up: a host died {deaths} times and a worker fell silent {vanished} times while it ran."
