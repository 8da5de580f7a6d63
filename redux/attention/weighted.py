"""Attention in which groups of keys weigh more or less: the public call, and which way it takes.

Shapes: B batch, H heads, L queries, K keys, D head size, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from . import backends
from .dense import dense_attention, dense_shares
from .groups import Group, GroupPlan, prepare_groups
from .merge import merged_attention


@overload
def weighted_attention(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    groups: Sequence[Group] | GroupPlan,
    *,
    backend: str | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    return_shares: Literal[False] = False,
) -> Tensor: ...


@overload
def weighted_attention(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    groups: Sequence[Group] | GroupPlan,
    *,
    backend: str | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    return_shares: Literal[True],
) -> tuple[Tensor, Tensor]: ...


# Compilers bake the weights they see into the graph, and hosts drop the guards that would notice a changed one; the
# probe of a kernel has no place in a graph either. So a compiled model calls this as it is.
@torch.compiler.disable
def weighted_attention(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    groups: Sequence[Group] | GroupPlan,
    *,
    backend: str | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    return_shares: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention with weight w for the keys of a group, that is, with log w added to their logits. Exact.

    Args:
        q_BHLD: [B, H, L, D].
        k_BHLD, v_BHLD: [B, H, K, D]. Views are fine; nothing is copied for groups, which are slices of them.
        groups: (start, stop, log_weight) over the keys, as `prepare_groups` describes them, or what it returned.
            Keys in no group have weight 1. A query that gives weight 0 to every key gets zeros. Many calls with the
            same groups should share one plan; groups given as they are do not make this call wait for a GPU, so a
            NaN in a tensor there goes unnoticed.
        backend: one of `available_backends`; None takes REDUX_ATTENTION from the environment, else the best.
        scale: factor of the logits; None = D ** -0.5.
        mask: a further mask that broadcasts to [B, H, L, K]: bool, True = attend, or a float added to the logits. It
            takes the dense path with a bias tensor, whatever the backend. Values of -1e30 and below forbid a key.
        return_shares: also count the share of attention that each group got.

    Returns:
        The output [B, H, L, D] in the dtype of q; with `return_shares` also the shares, fp32 [B, G + 1, L], the last
        one being the keys in no group: averaged over heads, they sum to one (to zero where the output is zeros).

    Raises:
        ValueError: groups, shapes or mask do not fit each other, or the backend cannot be used here.
        RuntimeError: a forced backend failed.
    """
    if isinstance(groups, GroupPlan):
        plan = groups
    else:
        plan = prepare_groups(groups, k_BHLD.shape[2], q_BHLD.device, inspect=False)
    _check(q_BHLD, k_BHLD, v_BHLD, plan)
    forced = backends.requested_backend(backend)
    if q_BHLD.numel() == 0 or not plan.joined:
        out_BHLD, shares_BGL = _nothing(q_BHLD, v_BHLD, plan, return_shares)
    elif mask is not None:
        out_BHLD, shares_BGL = _dense(q_BHLD, k_BHLD, v_BHLD, plan, scale, mask, return_shares)
    else:
        out_BHLD, shares_BGL = _unmasked(q_BHLD, k_BHLD, v_BHLD, plan, forced, scale, return_shares)
    return out_BHLD if shares_BGL is None else (out_BHLD, shares_BGL)


def _unmasked(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    plan: GroupPlan,
    forced: str | None,
    scale: float | None,
    return_shares: bool,
) -> tuple[Tensor, Tensor | None]:
    """By the first kernel that can do it, or with a bias."""
    segments = plan.tracked if return_shares else plan.joined
    tiny = q_BHLD.shape[2] == 1 or any(segment.stop - segment.start == 1 for segment in segments)
    situation = backends.Situation(q_BHLD.device, q_BHLD.dtype, q_BHLD.shape[3], tiny)
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHLD, k_BHLD, v_BHLD))
    # The merge works in place and the log-sum-exp has no gradient: only the bias can be differentiated.
    fits = v_BHLD.shape[3] == q_BHLD.shape[3] and not differentiable
    for name in _kernels(forced, situation, fits):
        try:
            result = merged_attention(q_BHLD, k_BHLD, v_BHLD, plan, name, scale, return_shares)
        except backends.KernelFailed as failure:
            if forced:
                raise
            backends.reject(name, situation, failure)
        else:
            backends.announce(name, situation)
            return result
    backends.announce(backends.BIAS, situation)
    return _dense(q_BHLD, k_BHLD, v_BHLD, plan, scale, None, return_shares)


def _kernels(forced: str | None, situation: backends.Situation, fits: bool) -> Iterable[str]:
    """The kernels to try, best first; none = the bias."""
    if forced == backends.BIAS:
        return ()
    kernels = backends.usable_kernels(situation) if fits else iter(())
    if forced is None:
        return kernels
    usable = tuple(kernels)
    if forced not in usable:
        raise ValueError(
            f"Attention backend {forced!r} cannot be used for {situation}{'' if fits else ' with these inputs'}; "
            f"usable are {', '.join((*usable, backends.BIAS))}."
        )
    return (forced,)


def _dense(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    plan: GroupPlan,
    scale: float | None,
    mask: Tensor | None,
    return_shares: bool,
) -> tuple[Tensor, Tensor | None]:
    out_BHLD = dense_attention(q_BHLD, k_BHLD, v_BHLD, plan, scale, mask)
    return out_BHLD, dense_shares(q_BHLD, k_BHLD, plan, scale, mask) if return_shares else None


def _nothing(q_BHLD: Tensor, v_BHLD: Tensor, plan: GroupPlan, return_shares: bool) -> tuple[Tensor, Tensor | None]:
    """What attention to no key at all gives."""
    batch, heads, length, _ = q_BHLD.shape
    out_BHLD = q_BHLD.new_zeros(batch, heads, length, v_BHLD.shape[3])
    if not return_shares:
        return out_BHLD, None
    return out_BHLD, q_BHLD.new_zeros(batch, plan.num_groups + 1, length, dtype=torch.float32)


def _check(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, plan: GroupPlan) -> None:
    q_shape, k_shape, v_shape = q_BHLD.shape, k_BHLD.shape, v_BHLD.shape
    if len(q_shape) != 4 or q_shape[:2] != k_shape[:2] or q_shape[3] != k_shape[3] or k_shape[:3] != v_shape[:3]:
        raise ValueError(
            f"q {tuple(q_shape)}, k {tuple(k_shape)} and v {tuple(v_shape)} do not fit; "
            "[batch, heads, tokens, head size] with equal batch, heads and head size is needed."
        )
    if not q_BHLD.dtype == k_BHLD.dtype == v_BHLD.dtype:
        raise ValueError(f"q, k and v have dtypes {q_BHLD.dtype}, {k_BHLD.dtype}, {v_BHLD.dtype}; one is needed.")
    if plan.num_keys != k_shape[2]:
        raise ValueError(f"The groups were prepared for {plan.num_keys} keys, but there are {k_shape[2]}.")
    for owner, batch, length in plan.rows:
        if batch not in (1, q_shape[0]) or length != q_shape[2]:
            raise ValueError(
                f"Group {owner} has log weights for batch {batch} and {length} queries, "
                f"but there are batch {q_shape[0]} and {q_shape[2]} queries."
            )
    for segment in plan.tracked:
        if isinstance(segment.log_weight, Tensor) and segment.log_weight.device != q_BHLD.device:
            raise ValueError(
                f"The log weights of group {segment.owner} were prepared for {segment.log_weight.device}, "
                f"but the queries are on {q_BHLD.device}."
            )
