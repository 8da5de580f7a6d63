"""ComfyUI's attention inside a model call that has weighted references.

One function, `attend`, is set as `optimized_attention_override`. What it has to do is not in its closure but in a
thread-local variable, because torch.compile as ComfyUI uses it drops all guards on transformer options: a compiled
model would keep using the weights of its first run. A compiled model sees one opaque operator, which reads the
variable when it runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...redux.attention import ForeignKernel, weighted_attention, weighted_attention_and_shares
from ...redux.influence import Recorder
from ...redux.reference import Reference
from ...redux.step_weights import StepWeights
from .keep import KeptCall
from .kernel import kernel_of, named_kernel
from .route import OVERRIDE, PREFERRED, Attention, routed
from .session import Session
from .suspects import module_of

log = logging.getLogger(__name__)
_local = threading.local()

Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys and values


class Record(NamedTuple):
    """Who counts the shares of some rows of a call, of which references, and as what (0 = the positive)."""

    recorder: Recorder
    references: tuple[Reference, ...]
    kind: int
    rows: Sequence[int]


class AttentionCall:
    """One model call: the weights of its references, and an override that stood there before.

    Args:
        options: the transformer options of the call.
        blocks: how many double blocks the model has, and single ones, which come after them.
        kept: how the references' keys are kept between steps, if they are.
    """

    def __init__(
        self,
        weights: StepWeights,
        session: Session,
        records: Sequence[Record],
        options: dict[str, Any],
        blocks: tuple[int, int],
        kept: KeptCall | None = None,
    ) -> None:
        self.weights = weights
        self.session = session
        self.records = records
        self.kept = kept
        self.previous: Callable[..., Tensor] | None = options.get(OVERRIDE)
        self.blocks = blocks
        self.position = 0
        self.kernel: str | ForeignKernel | None = None
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
            first_single = self.position - self.blocks[0]
            block = ("double", self.position) if first_single < 0 else ("single", first_single)
        self.position += 1
        plan = self.weights.plan(*block, queries=qkv_BHLD[0].shape[2], heads=qkv_BHLD[0].shape[1])
        earlier = None
        if self.kept is not None and self.kept.full:
            self.kept.write(block, *qkv_BHLD[1:])
        elif self.kept is not None:
            earlier = self.kept.read(block)
        options: dict[str, Any] = {"mask": mask, "scale": scale, "kernel": self.kernel, "kept": earlier}
        if not self.records:
            return weighted_attention(*qkv_BHLD, plan, **options)
        out_BHLD, shares_BGL = weighted_attention_and_shares(*qkv_BHLD, plan, **options)
        for record in self.records:
            record.recorder.add(shares_BGL, self.weights, *record[1:])
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
    expected = 0
    try:
        with routed(attend):
            yield {OVERRIDE: attend}
        expected = sum(call.blocks)
    finally:
        call.session.count(call.position, expected)
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
    replaces attention (as SageAttention patches do) and is left out, because it cannot weigh; the kernel that it uses
    serves where that is the faster way. A compiled model leaves it out as well.
    """
    if torch.compiler.is_compiling():
        operator = torch.ops.redux_control.attend
        return _ours(operator, (q, k, v), heads, mask, options.get("scale"), skip_reshape, skip_output_reshape)
    options |= {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
    options["attn_precision"] = attn_precision
    call: AttentionCall | None = getattr(_local, "call", None)
    if call is None or call.previous is None:  # as ComfyUI, which asks an override first
        func = (options.get("transformer_options") or {}).get(PREFERRED, func)
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
    replaced = call.session.replaced
    call.kernel = kernel_of(replaced or func, func if replaced else None, options)

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
        kernel = named_kernel(call.previous)
        log.info(
            "Redux: the attention of %s is left out of this sampling where references are weighed, as it does not call "
            "the attention that it is given%s.",
            module_of(call.previous),
            f"; its kernel, {kernel}, is used where that is faster" if kernel else "",
        )
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


# A captured CUDA graph would repeat the weights of its first run. Before torch 2.8 an operator cannot say so.
_TAGS: dict[str, Any] = {"tags": [torch.Tag.cudagraph_unsafe]} if hasattr(torch.Tag, "cudagraph_unsafe") else {}


# The block is not an argument: models that are compiled block by block share one graph between their blocks.
@torch.library.custom_op("redux_control::attend", mutates_args=(), **_TAGS)
def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    call: AttentionCall | None = getattr(_local, "call", None)
    if call is None or not call.fits(q, k):
        if call is not None:
            call.session.foreign += 1
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).contiguous()
    if not _TAGS and q.is_cuda and torch.cuda.is_current_stream_capturing():
        call.session.warn(f"a CUDA graph of torch {torch.__version__} repeats the reference's weights of its first run")
    return call.run((q, k, v), mask, scale, None).contiguous()


@_attend.register_fake
def _attend_fake(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    return q.new_empty(q.shape)
