"""What is known during one sampling, and what is said about it afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn

from .live import LiveInfluence
from .report import forget_note, note_on_node

log = logging.getLogger(__name__)


class Session:
    """Counts what happened to the weights of a sampling.

    Attributes:
        run: a new object for each sampling.
        node: that samples; "" if it is not known.
        record: whether shares of attention are counted.
        images: numbers of the sampled latent's images in a larger batch, where they are known.
        planned: model calls that were to have weights.
        calls: model calls that had weights.
        served: attentions that used them, in the call that had most of them; step caches skip some in others.
        expected: attentions of a whole call.
        suspects: packs that have a hand in the model calls.
        foreign: attentions of another layout than the model's own, which could not.
        replaced: another pack's override that does not call the attention it is given.
        live: what is shown of the influence meanwhile.
    """

    def __init__(self) -> None:
        self.start(record=False)

    def start(self, record: bool, node: str = "", images: tuple[int, ...] = ()) -> None:
        self.run = object()
        forget_note(node)
        self.node = node
        self.live = LiveInfluence(node)
        self.record = record
        self.images = images
        self.planned = self.calls = self.served = self.expected = self.foreign = 0
        self.suspects: tuple[str, ...] = ()
        self.replaced: Callable[..., Any] | None = None
        self._said: set[str] = set()

    def warn(self, text: str) -> None:
        """Say it once in a sampling."""
        if text not in self._said:
            self._said.add(text)
            log.warning("Redux: %s.", text)

    def tell(self, sentence: str) -> None:
        """The same on the node that samples, too."""
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("Redux: %s", sentence)
            note_on_node(sentence, self.node)

    def refuse(self, sentence: str) -> NoReturn:
        """End the sampling with an error whose sentence stands on the node that samples."""
        note_on_node(sentence, self.node)
        raise ValueError(sentence)

    def note(self, text: str) -> None:
        """The same for what is no fault."""
        if text not in self._said:
            self._said.add(text)
            log.info("Redux: %s.", text)

    def count(self, served: int, expected: int) -> None:
        """A model call has ended, in which so many attentions used the weights."""
        self.served, self.expected = max(self.served, served), max(self.expected, expected)

    def finish(self) -> None:
        """Say what had no effect; forget the sampling."""
        self.live.end()
        by = f" ({', '.join(self.suspects)})" if self.suspects else ""
        if self.planned and not self.served:
            if not self.calls:
                reason = "this ComfyUI does not call wrappers of the model"
            elif self.foreign:
                reason = f"another patch changed the model's number of tokens{by}"
            else:
                reason = f"this model does not use ComfyUI's attention{by}"
            self.warn(
                f"{reason}, so strength, normalize, region, curve and blocks of the reference had no effect; "
                "what works here: start_percent and end_percent, Pool Reference, and a mask at Encode Reference"
            )
        elif self.calls and self.served < self.expected:
            self.warn(
                f"only {self.served} of {self.expected} attentions of a model call read the reference with its "
                f"strength, normalize, region and curve; another patch{by} leaves out the others or does them in its "
                "own way, and the picture is not what these settings mean"
            )
        self.start(record=False)
