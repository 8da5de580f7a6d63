"""What a worker does with a message: claim its job, run it, and say whether the message is done with."""

from __future__ import annotations

import logging
import time

from ..jobs import Job
from .attempt import AGAIN, DONE, Attempt, Bench, insist
from .host import HostAway
from .run import HELD, OVER, Claim, is_poisoned, poisoned
from .runs import Finished
from .store import StoreError

PAUSE_SECONDS = 1.0
"""Before a message is given back, so that one which nobody can serve now does not go round without end."""

log = logging.getLogger(__name__)


def handle(bench: Bench, id: str, queue: str, redelivered: bool) -> str:
    """DONE or AGAIN; never raises what another worker could do better with."""
    try:
        return _handle(bench, id, queue, redelivered)
    except StoreError as error:
        log.error("Redux pool: job %s is given back: %s", id, error.message)
    except HostAway as error:
        log.warning("Redux pool: job %s is given back: the host is away: %s.", id, error)
    time.sleep(PAUSE_SECONDS)
    return AGAIN


def _handle(bench: Bench, id: str, queue: str, redelivered: bool) -> str:
    strays = bench.host.own()  # a host that is away begins nothing
    claim = claim_run(bench, id, redelivered)
    if not claim:
        return DONE
    job, capability = insist(lambda: bench.store.get(id)), insist(lambda: bench.capability(queue))
    problem = _problem(bench, job, capability is None, claim)
    if problem:
        insist(lambda: bench.runs.finish(id, claim.attempt, Finished(error=problem)))
        return DONE
    assert job is not None and capability is not None
    outcome = Attempt(bench, job, capability, claim, strays).run()
    if outcome == AGAIN:
        time.sleep(PAUSE_SECONDS)
    return outcome


def claim_run(bench: Bench, id: str, redelivered: bool) -> Claim:
    """The claim, or a refusal where another worker has the job or it is over.

    A message that comes again follows a connection that broke: its worker may be dead, which its silence shows within
    a lease, or go on without the broker, and then the job needs no second worker.
    """
    end = time.monotonic() + 2 * bench.settings.lease_seconds
    claim = insist(lambda: bench.runs.claim(id, bench.name))
    while claim.verdict == HELD and redelivered and time.monotonic() < end:
        before = claim
        time.sleep(min(claim.seconds, bench.settings.lease_seconds / 6) + 0.05)
        claim = insist(lambda: bench.runs.claim(id, bench.name))
        if claim.verdict == HELD and claim.seconds > before.seconds:  # it has beaten since
            break
    return claim if claim.verdict != HELD else Claim(OVER)


def _problem(bench: Bench, job: Job | None, is_unknown: bool, claim: Claim) -> str:
    if job is None:
        return "The job is no longer there."
    if is_unknown:
        return "The job's queue is of another version."
    if is_poisoned(bench.settings, claim.deaths, claim.vanished):
        return poisoned(claim.deaths, claim.vanished)
    return ""


__all__ = ["AGAIN", "DONE", "handle"]
