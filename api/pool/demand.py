"""`python -m api.pool.demand`: whether the pool needs another host, as an exit status, for systemd's ExecCondition.

    0    yes: a job has waited for as long as --waiting says (or, with --idle, no job waits)
    1    no
    255  the gateway does not answer, which is no reason to start or stop anything

The key for /health is the first of REDUX_POOL_WATCH_KEYS, or else of REDUX_API_KEYS, where one is set.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any

YES, NO, UNKNOWN = 0, 1, 255
ANSWER_SECONDS = 10


def longest_wait(health: Mapping[str, Any]) -> float | None:
    """Seconds that the oldest waiting job has waited; None where none waits."""
    ages = [float(item["oldest"]) for item in health["jobs"] if item["state"] == "queued" and item["count"]]
    return max(ages, default=None)


def read_health(url: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """What a gateway says of its pool.

    Raises:
        OSError: it does not answer, or the key is wrong.
        ValueError: what it answers is something else.
    """
    keys = environ.get("REDUX_POOL_WATCH_KEYS") or environ.get("REDUX_API_KEYS", "")
    key = keys.partition(",")[0].strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/health", headers=headers)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        health = json.load(answer)
    if not isinstance(health, dict) or "jobs" not in health or health.get("status") == "down":
        raise ValueError("the pool is down, or this is no gateway")
    return health


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api.pool.demand", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gateway", default="http://127.0.0.1:8288")
    ask = parser.add_mutually_exclusive_group(required=True)
    ask.add_argument("--waiting", type=float, metavar="SECONDS", help="yes where a job has waited for so long")
    ask.add_argument("--idle", action="store_true", help="yes where no job waits")
    args = parser.parse_args()
    try:
        wait = longest_wait(read_health(args.gateway, os.environ))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {args.gateway} does not say how the pool is: {error}.", file=sys.stderr)
        sys.exit(UNKNOWN)
    answer = wait is None if args.idle else wait is not None and wait >= args.waiting
    sys.exit(YES if answer else NO)


if __name__ == "__main__":
    main()
