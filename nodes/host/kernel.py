"""Which of the attention kernels that people choose for their speed this host has been told to use.

A flag, another pack's patch or a node that picks an attention all end in a function that calls the kernel. Its own name
and the names in its code tell which one; whether that kernel can serve here is tried by the attention itself, so that a
wrong guess does no harm. Kernels that give a log-sum-exp are called by their packages, the others by that function.
"""

from __future__ import annotations

import functools
import logging
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...redux.attention import ForeignKernel

# What stands in the names, in the order in which they are looked for.
KERNELS = (
    ("sageattn3", "SageAttention 3"),
    ("sage3", "SageAttention 3"),
    ("attention3_sage", "SageAttention 3"),
    ("comfy_kitchen_int8", "comfy-kitchen INT8"),
    ("int8_attention", "comfy-kitchen INT8"),
    ("sage", "sage"),
    ("flash_attn", "flash_attn"),
    ("attention_flash", "flash_attn"),
    ("xformers", "xformers"),
)
# Those that give no log-sum-exp, and whether they take a bias for each key.
FOREIGN = {"SageAttention 3": False, "comfy-kitchen INT8": True}
DEPTH = 4  # of functions in functions


def kernel_of(
    function: Callable[..., Any], func: Callable[..., Any] | None, options: dict[str, Any]
) -> str | ForeignKernel | None:
    """What `weighted_attention` may take for the kernel of an attention of the host.

    Args:
        function: the attention, or an override, which is given `func`.
        options: what this call gives it beside queries, keys, values, heads and mask.
    """
    name = named_kernel(function)
    if name not in FOREIGN:
        return name
    options = {**options, "skip_reshape": True, "skip_output_reshape": True, "_inside_attn_wrapper": True}
    first = () if func is None else (func,)

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
        more = {} if scale is None else {"scale": scale}
        with _errors_raise():
            out = function(*first, q, k, v, q.shape[1], mask=bias, **{**options, **more})
        return out if out.ndim == 4 else out.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)

    return ForeignKernel(name, attend, FOREIGN[name])


class _Errors(logging.Handler):
    """Hears the errors that its thread logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.thread = threading.get_ident()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.found.append(record.getMessage())


@contextmanager
def _errors_raise() -> Iterator[None]:
    """ComfyUI's attentions log what their kernel raises, and compute on another one: then ours is the faster way."""
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(errors)
    if errors.found:
        raise RuntimeError(errors.found[0])


@functools.lru_cache(maxsize=64)
def named_kernel(function: Callable[..., Any]) -> str | None:
    """The kernel's name, in `redux.attention` or in FOREIGN; None for any other attention."""
    names = " ".join(_names(function, DEPTH)).lower()
    return next((kernel for word, kernel in KERNELS if word in names), None)


def _names(function: Any, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    if isinstance(function, functools.partial):
        yield from _names(function.func, depth)
        return
    if isinstance(function, types.MethodType):
        yield type(function.__self__).__name__
        function = function.__func__
    if not isinstance(function, types.FunctionType):
        yield from (str(getattr(function, "__name__", "")), type(function).__name__)
        return
    yield from (function.__qualname__, *function.__code__.co_names, *function.__code__.co_freevars)
    inner = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    for value in (getattr(function, "__wrapped__", None), *inner):
        if callable(value):
            yield from _names(value, depth - 1)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that its function has not set yet
        return False
