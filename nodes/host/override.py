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
from typing import Any

import torch
from torch import Tensor

from ...redux.attention import weighted_attention
from ...redux.influence import Recorder
from ...redux.plan import StepWeights
from .session import Session

OVERRIDE = "optimized_attention_override"
log = logging.getLogger(__name__)
_local = threading.local()

Attention = Callable[..., Tensor]
Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys and values


class AttentionCall:
    """One model call: the weights of its references, and an override that stood there before.

    Args:
        options: the transformer options of the call.
        double_blocks: how many the model has, which come before its single blocks.
    """

    def __init__(
        self,
        weights: StepWeights,
        session: Session,
        recorder: Recorder | None,
        options: dict[str, Any],
        double_blocks: int,
    ) -> None:
        self.weights = weights
        self.session = session
        self.recorder = recorder
        self.previous: Callable[..., Tensor] | None = options.get(OVERRIDE)
        self.kinds: list[int] = options.get("cond_or_uncond") or [0] * weights.layout.chunks
        self.double_blocks = double_blocks
        self.position = 0
        session.calls += 1

    def fits(self, q: Tensor, k: Tensor) -> bool:
        return self.weights.fits(q.shape[-2], k.shape[-2])

    def run(
        self,
        qkv_BHLD: Heads,
        mask: Tensor | None,
        scale: float | None,
        block: tuple[str, int] | None,
    ) -> Tensor:
        """Attention [B, H, L, D] in one block, e.g. ("single", 3); None = the one whose turn it is."""
        if block is None:
            first_single = self.position - self.double_blocks
            block = ("double", self.position) if first_single < 0 else ("single", first_single)
        self.position += 1
        self.session.served += 1
        plan = self.weights.plan(*block, qkv_BHLD[0].shape[2])
        if self.recorder is None:
            return weighted_attention(*qkv_BHLD, plan, mask=mask, scale=scale)
        out_BHLD, shares_BGL = weighted_attention(*qkv_BHLD, plan, mask=mask, scale=scale, return_shares=True)
        self.recorder.add(shares_BGL, self.weights, self.kinds)
        return out_BHLD


@contextmanager
def running(call: AttentionCall) -> Iterator[dict[str, Any]]:
    """Make `call` the one that `attend` serves in this thread, and give the option that leads to `attend`.

    A compiled model has to be compiled once more for calls with weights, but guards on the option are dropped. Of the
    state that torch.compile always guards, whether autocast keeps its casts is the one that changes nothing here.
    """
    before = getattr(_local, "call", None)
    cached = torch.is_autocast_cache_enabled()
    _local.call = call
    torch.set_autocast_cache_enabled(False)
    try:
        yield {OVERRIDE: attend}
    finally:
        torch.set_autocast_cache_enabled(cached)
        _local.call = before


def attend(
    func: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **options: Any,
) -> Tensor:
    """ComfyUI's attention with the weights of the running call; other attentions of the model pass through.

    An override that stood there before is called with our attention as its function. If it does not call it, it
    replaces attention (as SageAttention patches do) and is left out, because it cannot weigh. A compiled model leaves
    it out as well.
    """
    if torch.compiler.is_compiling():
        operator = torch.ops.redux_control.attend
        return _ours(operator, (q, k, v), heads, mask, options.get("scale"), skip_reshape, skip_output_reshape)
    options |= {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
    options["attn_precision"] = attn_precision
    call: AttentionCall | None = getattr(_local, "call", None)
    if call is None:
        return func(q, k, v, heads, mask=mask, **options)
    if call.previous is None:
        return _serve(call, func, (q, k, v), heads, mask, options)
    return _serve_through(call, func, (q, k, v), heads, mask, options)


def _serve(
    call: AttentionCall, func: Attention, qkv: Heads, heads: int, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Attention with the call's weights, or `func` where they do not fit."""
    if not call.fits(*qkv[:2]):
        call.session.foreign += 1
        return func(*qkv, heads, mask=mask, **options)

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        return call.run((q, k, v), mask, scale, _block(options))

    skips = options.get("skip_reshape", False), options.get("skip_output_reshape", False)
    return _ours(run, qkv, heads, mask, options.get("scale"), *skips)


def _serve_through(
    call: AttentionCall, func: Attention, qkv: Heads, heads: int, mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """The same as the function of another pack's override."""
    served: list[bool] = []

    def ours(q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        served.append(True)
        kwargs |= dict(zip(("mask", "attn_precision", "skip_reshape", "skip_output_reshape"), args, strict=False))
        return _serve(call, func, (q, k, v), heads, kwargs.pop("mask", None), kwargs)

    assert call.previous is not None
    fits = call.fits(*qkv[:2])
    if not fits or call.session.replaced is not call.previous:
        out = call.previous(ours, *qkv, heads, mask=mask, **options)
        if served or not fits:
            return out
        call.session.replaced = call.previous
        log.info("Redux: an override that replaces attention is left out of this sampling, as it cannot weigh.")
    return _serve(call, func, qkv, heads, mask, options)


def _ours(
    run: Callable[..., Tensor],
    qkv: Heads,
    heads: int,
    mask: Tensor | None,
    scale: float | None,
    skip_reshape: bool,
    skip_output_reshape: bool,
) -> Tensor:
    """`run` on [B, H, L, D], whichever way the heads come and go."""
    if not skip_reshape:
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv)
        qkv = q, k, v
    if mask is not None and mask.ndim != 4:
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    out_BHLD = run(*qkv, mask, scale)
    return out_BHLD if skip_output_reshape else out_BHLD.transpose(1, 2).flatten(2)


def _block(options: dict[str, Any]) -> tuple[str, int] | None:
    table = options.get("transformer_options") or {}
    return (table["block_type"], table["block_index"]) if "block_index" in table else None


# A captured CUDA graph would repeat the weights of its first run.
_TAGS = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, "cudagraph_unsafe") else []


# The block is not an argument: models that are compiled block by block share one graph between their blocks.
@torch.library.custom_op("redux_control::attend", mutates_args=(), tags=_TAGS)
def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    call: AttentionCall | None = getattr(_local, "call", None)
    if call is None or not call.fits(q, k):
        if call is not None:
            call.session.foreign += 1
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).contiguous()
    return call.run((q, k, v), mask, scale, None).contiguous()


@_attend.register_fake
def _attend_fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    return q.new_empty(q.shape)
