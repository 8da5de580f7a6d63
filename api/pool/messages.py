"""What a message to a worker may be: the id of a job, and nothing that Celery would do beside it.

Whoever can publish to the broker could else have a worker wait, call back, or end: a body of another shape ends
Celery's worker, and comes again to the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker.strategy import default

STRATEGY = f"{__name__}:take_ours"
_ID = re.compile("[0-9a-f]{32}")


def take_ours(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., None]:
    """Celery's own way with a message, for those of ours; any other is thrown away and said in the log."""
    handle = default(task, app, consumer, **options)

    def take(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> None:
        if not is_ours(message.headers or {}, message.payload):
            raise InvalidTaskError("it is no message of this pool's gateways")
        handle(message, body, ack, reject, callbacks, **more)

    return take


def is_ours(headers: dict[str, Any], payload: Any) -> bool:
    """Whether a message is as `app.publish` makes it: one id, no other argument, nothing to do before or after."""
    if not isinstance(payload, list) or len(payload) != 3:
        return False
    arguments, named, beside = payload
    if not isinstance(arguments, list) or len(arguments) != 1 or named != {} or not isinstance(beside, dict):
        return False
    (id,) = arguments
    extras = [*beside.values(), headers.get("eta"), headers.get("expires"), *(headers.get("timelimit") or ())]
    return isinstance(id, str) and bool(_ID.fullmatch(id)) and headers.get("id") == id and not any(extras)
