"""What the end of a prompt in ComfyUI means for a job."""

from __future__ import annotations

import logging
import re

from ..nodes.host.history import Ended
from .backend import Finished
from .prompt import SAFETY, SAVE

_START = r"(?:/|[A-Za-z]:\\)"
_PATH = re.compile(rf"""'{_START}[^']*'|"{_START}[^"]*"|(?<![\w.]){_START}[^\s'"]+""")

log = logging.getLogger(__name__)


def read_end(end: Ended) -> Finished:
    """One job's end; an odd one, which other packs may have made so, fails that job alone."""
    try:
        return _finished(end)
    except (AttributeError, KeyError, TypeError) as error:
        log.exception("Redux API: what ComfyUI's history holds cannot be read.")
        return Finished(error=f"The result cannot be read ({type(error).__name__}: {error}).", started=end.started)


def _finished(end: Ended) -> Finished:
    if end.interrupted:
        return Finished(canceled=True, started=end.started)
    if not end.succeeded:
        error = _PATH.sub("(a file)", end.error)  # how this machine is laid out is nobody else's business
        return Finished(error=error or "ComfyUI could not run the workflow.", started=end.started)
    flags = tuple(bool(flag) for flag in end.outputs.get(SAFETY, {}).get("flags", ()))
    images = end.outputs.get(SAVE, {}).get("images", ())
    outputs = tuple(f"{image['subfolder']}/{image['filename']}" for image in images)
    error = ""
    if not outputs:
        error = "The safety check flagged every picture." if flags else "The workflow saved no picture."
    return Finished(outputs, flags, error, started=end.started)
