"""The way to our attention for blocks that are called without transformer options.

Several patches (step caches, identity adapters) call FLUX's blocks in a loop of their own and leave the options out, in
which ComfyUI looks for an attention override. All of FLUX's blocks call one name for attention, so while a call with
references runs, that name leads to a function that puts the override back. It also notes the attention that a
checkpoint asks for, in newer ComfyUI: that is dropped before an override is called.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.flux.math
from torch import Tensor

OVERRIDE = "optimized_attention_override"
NAME = "optimized_attention"
PREFERRED = "redux_preferred_attention"
log = logging.getLogger(__name__)
_LOCK = threading.Lock()
_users = 0

Attention = Callable[..., Tensor]


@contextmanager
def routed(override: Attention) -> Iterator[None]:
    """Let attention of FLUX's blocks find `override` where nobody else has put one.

    Threads that have no call of their own come through here too while it lasts; the override passes them on.
    """
    _enter(override)
    try:
        yield
    finally:
        _leave()


def _enter(override: Attention) -> None:
    global _users
    with _LOCK:
        _users += 1
        found = getattr(comfy.ldm.flux.math, NAME, None)
        if found is None:
            _tell()
        elif not hasattr(found, "redux_original"):
            setattr(comfy.ldm.flux.math, NAME, _route(found, override))


def _leave() -> None:
    global _users
    with _LOCK:
        _users -= 1
        original = getattr(getattr(comfy.ldm.flux.math, NAME, None), "redux_original", None)
        if _users == 0 and original is not None:  # None: another pack has replaced it meanwhile
            setattr(comfy.ldm.flux.math, NAME, original)


@functools.cache
def _tell() -> None:
    log.warning(
        "Redux: in this ComfyUI FLUX's blocks call attention by another name, so patches that leave out transformer "
        "options lose the strength of references."
    )


@functools.lru_cache(maxsize=4)  # one function for ever, as compiled models are guarded by it
def _route(func: Attention, override: Attention) -> Attention:
    @functools.wraps(func)
    def attention(*args: Any, **kwargs: Any) -> Tensor:
        options = kwargs.get("transformer_options") or {}
        preferred = getattr(kwargs.get("preferred_attention"), "function", None)
        noted = {} if preferred is None else {PREFERRED: preferred}
        if noted or OVERRIDE not in options:
            kwargs["transformer_options"] = {OVERRIDE: override, **options, **noted}
        return func(*args, **kwargs)

    attention.redux_original = func  # type: ignore[attr-defined]
    return attention
