"""What is known during one sampling, and what is said about it afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class Session:
    """Counts what happened to the weights of a sampling.

    Attributes:
        run: a new object for each sampling.
        record: whether shares of attention are counted.
        calls: model calls that had weights.
        served: attentions that used them.
        foreign: attentions of another layout than the model's own, which could not.
        replaced: another pack's override that does not call the attention it is given.
    """

    def __init__(self) -> None:
        self.start(record=False)

    def start(self, record: bool) -> None:
        self.run = object()
        self.record = record
        self.calls = self.served = self.foreign = 0
        self.replaced: Callable[..., Any] | None = None
        self._said: set[str] = set()

    def warn(self, text: str) -> None:
        """Say it once in a sampling."""
        if text not in self._said:
            self._said.add(text)
            log.warning("Redux: %s.", text)

    def finish(self) -> None:
        """Say what had no effect; forget the sampling."""
        if self.calls and not self.served:
            reason = (
                "another patch changed the model's number of tokens"
                if self.foreign
                else "this model does not use ComfyUI's attention"
            )
            self.warn(
                f"{reason}, so strength, normalize, region, curve and blocks of the reference had no effect; "
                "what works here: start_percent and end_percent, Pool Reference, and a mask at Encode Reference"
            )
        self.start(record=False)
