"""Requests that are taken once, however often they come: the header Idempotency-Key.

A caller whose connection broke does not know whether a request was taken. With the same name on it, it can be sent
again: the answer is the job that there is, as long as jobs are kept. Names are each caller's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import ApiError, shown
from .jobs import Job, Once

HEADER = "Idempotency-Key"
MAX_NAME = 255


def read_once(headers: Mapping[str, str], owner: str, vendor: str, body: Any) -> Once | None:
    """What a request says about being taken once; None where it says nothing.

    Args:
        body: of the request, as it was parsed.

    Raises:
        ApiError: 400, the header is empty, too long or no plain text.
    """
    name = headers.get(HEADER)
    if name is None:
        return None
    if not re.fullmatch(r"[\x20-\x7e]+", name) or len(name) > MAX_NAME:
        found = f"'{shown(name, 40)}', {len(name)} characters"
        raise ApiError(400, f"{HEADER} is {found}; 1 to {MAX_NAME} of plain text are needed.")
    return Once(_hash([owner, vendor, name]), _hash(body))


def same(job: Job, once: Once | None) -> Job:
    """The job, if it was made by the same request.

    Raises:
        ApiError: 422, it was made by another one.
    """
    if once is None or job.digest != once.digest:
        raise ApiError(422, f"This {HEADER} came with another request before; use a new one.")
    return job


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
