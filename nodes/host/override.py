"""ComfyUI's attention inside a model call that has weighted references.

One function, `attend`, is set as `optimized_attention_override`. What it has to do is not in its closure but in a
thread-local variable, because torch.compile as ComfyUI uses it drops all guards on transformer options: a compiled
model would keep using the weights of its first run. A compiled model sees one opaque operator, which reads the
variable when it runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...redux.attention import weighted_attention
from ...redux.control import StepWeights
from ...redux.influence import Recorder

if TYPE_CHECKING:
    from .control import ReduxControl

OVERRIDE = "optimized_attention_override"
log = logging.getLogger(__name__)
_local = threading.local()


class AttentionCall:
    """One model call: the groups of its references, and an override that stood there before."""

    def __init__(self, weights: StepWeights, control: ReduxControl, recorder: Recorder | None) -> None:
        self.weights = weights
        self.control = control
        self.recorder = recorder
        self.previous: Callable[..., Tensor] | None = None

    def run(self, qkv_BHLD: tuple[Tensor, ...], mask: Tensor | None, block: tuple[str, int]) -> Tensor:
        """Attention [B, H, L, D] in one block, e.g. ("single", 3)."""
        self.control.attended += 1
        q_BHLD, k_BHLD, v_BHLD = qkv_BHLD
        plan = self.weights.plan(*block)
        if self.recorder is None:
            return weighted_attention(q_BHLD, k_BHLD, v_BHLD, plan, mask=mask)
        out_BHLD, shares_BGL = weighted_attention(q_BHLD, k_BHLD, v_BHLD, plan, mask=mask, return_shares=True)
        self.recorder.add(shares_BGL, self.weights)
        return out_BHLD


@contextmanager
def running(call: AttentionCall, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make `call` the one that `attend` serves in this thread, and give options that lead to `attend`."""
    before = getattr(_local, "call", None)
    call.previous = options.get(OVERRIDE)
    _local.call = call
    try:
        yield {**options, OVERRIDE: attend}
    finally:
        _local.call = before


def attend(
    func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any
) -> Tensor:
    """ComfyUI's attention with the weights of the running call; other attentions of the model pass through.

    An override that stood there before is called with our attention as its function. If it does not call it, it
    replaces attention (as SageAttention patches do) and is left out, because it cannot weigh.
    """
    if torch.compiler.is_compiling():
        return _attend_compiled(q, k, v, heads, mask, options)
    call: AttentionCall | None = getattr(_local, "call", None)
    length = q.shape[-2]
    if call is None or length != call.weights.length or k.shape[-2] != length:
        if call is None or call.previous is None:
            return func(q, k, v, heads, mask=mask, **options)
        return call.previous(func, q, k, v, heads, mask=mask, **options)
    served: list[bool] = []

    def ours(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **options: Any) -> Tensor:
        served.append(True)
        return _joined(call.run(_split((q, k, v), heads, options), _mask_4d(mask), _block(options)), options)

    if call.previous is not None and call.previous not in _replacing:
        out = call.previous(ours, q, k, v, heads, mask=mask, **options)
        if served:
            return out
        _replacing.append(call.previous)
        log.info("Redux: an attention patch that replaces attention is left out while a reference is weighted.")
    return ours(q, k, v, heads, mask, **options)


_replacing: list[Callable[..., Tensor]] = []


def _attend_compiled(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, options: dict) -> Tensor:
    parts = _split((q, k, v), heads, options)
    return _joined(torch.ops.redux_control.attend(*parts, _mask_4d(mask), *_block(options)), options)


@torch.library.custom_op("redux_control::attend", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kind: str, index: int) -> Tensor:
    call: AttentionCall | None = getattr(_local, "call", None)
    if call is None or q.shape[-2] != call.weights.length or k.shape[-2] != q.shape[-2]:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).contiguous()
    return call.run((q, k, v), mask, (kind, index)).contiguous()


@_attend.register_fake
def _attend_fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kind: str, index: int) -> Tensor:
    return q.new_empty(q.shape)


def _block(options: dict[str, Any]) -> tuple[str, int]:
    table = options.get("transformer_options") or {}
    return table.get("block_type", "double"), table.get("block_index", 0)


def _split(parts: tuple[Tensor, ...], heads: int, options: dict[str, Any]) -> tuple[Tensor, ...]:
    if options.get("skip_reshape"):
        return parts
    return tuple(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)


def _joined(out_BHLD: Tensor, options: dict[str, Any]) -> Tensor:
    return out_BHLD if options.get("skip_output_reshape") else out_BHLD.transpose(1, 2).flatten(2)


def _mask_4d(mask: Tensor | None) -> Tensor | None:
    return mask if mask is None or mask.ndim == 4 else mask.reshape(-1, 1, *mask.shape[-2:])
