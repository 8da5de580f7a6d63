"""Attention in which groups of keys weigh more or less: the public call, and which way it takes.

Shapes: B batch, H heads, L queries, K keys, D head size, G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from . import backends
from .augmented import augmented_attention, augmented_shares
from .choice import Call, ways
from .foreign import ForeignKernel
from .groups import GroupPlan, GroupSpec, prepare_groups
from .runs import KeyRuns, KeysAndValues
from .share import mix_levels, owners_of_keys


# Compilers bake the weights they see into the graph, and hosts drop the guards that would notice a changed one; the
# probe of a kernel has no place in a graph either. So a compiled model calls this as it is.
@torch.compiler.disable
def weighted_attention(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    groups: Sequence[GroupSpec] | GroupPlan,
    *,
    backend: str | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    kept: KeysAndValues | None = None,
    kernel: str | ForeignKernel | None = None,
) -> Tensor:
    """Softmax attention with weight w for the keys of a group, that is, with log w added to their logits. Exact.

    A group with a share s below one gets s times the part of attention that its weight would give it; the rest of
    that goes to the keys that remain (`redux.attention.share` has the formula).

    Args:
        q_BHLD: [B, H, L, D].
        k_BHLD, v_BHLD: [B, H, K, D]. Views are fine; nothing is copied for groups, which are slices of them.
        groups: (start, stop, log_weight) over the keys, as `prepare_groups` describes them, or what it returned.
            Keys in no group have weight 1. A query that gives weight 0 to every key gets zeros. Many calls with the
            same groups should share one plan; groups given as they are do not make this call wait for a GPU, so a
            NaN in a tensor there goes unnoticed. Weights and shares are constants: gradients go to q, k and v alone.
        backend: one of `available_backends`; None takes REDUX_ATTENTION from the environment, else the best.
        scale: factor of the logits; None = D ** -0.5.
        mask: a further mask that broadcasts to [B, H, L, K]: bool, True = attend, or a float added to the logits. It
            takes the way of augmented heads, whatever the backend. Values of -1e30 and below forbid a key.
        kept: keys and values [B, H, N, D] that stand before k_BHLD and v_BHLD as if they had been concatenated: groups
            and mask count all N + K keys. Kernels read them where they are.
        kernel: a kernel of another package that was chosen for its speed: "sage", "flash_attn" or "xformers". It
            serves the largest part of the keys where it works here, gives the true result, and is faster so than what
            would be taken without it, which is measured once.

    Returns:
        The output [B, H, L, D] in the dtype of q.

    Raises:
        ValueError: groups, shapes or mask do not fit each other, or the backend cannot be used here.
        RuntimeError: a forced backend failed.
    """
    return _attend(q_BHLD, k_BHLD, v_BHLD, groups, backend, scale, mask, kept, kernel, False)[0]


@torch.compiler.disable
def weighted_attention_and_shares(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    groups: Sequence[GroupSpec] | GroupPlan,
    *,
    backend: str | None = None,
    scale: float | None = None,
    mask: Tensor | None = None,
    kept: KeysAndValues | None = None,
    kernel: str | ForeignKernel | None = None,
) -> tuple[Tensor, Tensor]:
    """`weighted_attention`, and the share of attention that each group got.

    Returns:
        The output, and the shares in fp32 [B, G + 1, L], the last one being the keys in no group: averaged over heads,
        they sum to one (to zero where the output is zeros, to less than one where groups that give up a part of their
        share are all there is to read).
    """
    out_BHLD, shares_BGL = _attend(q_BHLD, k_BHLD, v_BHLD, groups, backend, scale, mask, kept, kernel, True)
    assert shares_BGL is not None
    return out_BHLD, shares_BGL


def _attend(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    groups: Sequence[GroupSpec] | GroupPlan,
    backend: str | None,
    scale: float | None,
    mask: Tensor | None,
    kept: KeysAndValues | None,
    kernel: str | ForeignKernel | None,
    return_shares: bool,
) -> tuple[Tensor, Tensor | None]:
    runs = KeyRuns((k_BHLD, v_BHLD)) if kept is None else KeyRuns(kept, (k_BHLD, v_BHLD))
    if isinstance(groups, GroupPlan):
        plan = groups
    else:
        plan = prepare_groups(groups, runs.num_keys, q_BHLD.device, inspect=False)
    _check(q_BHLD, runs, plan)
    forced = backends.requested_backend(backend)
    if q_BHLD.numel() == 0 or not plan.joined:
        return _no_keys(q_BHLD, runs.runs[0][1], plan, return_shares)
    if mask is not None:
        return _augmented(q_BHLD, runs, plan, scale, mask, return_shares)
    return _unmasked(q_BHLD, runs, plan, forced, kernel, scale, return_shares)


def _unmasked(
    q_BHLD: Tensor,
    runs: KeyRuns,
    plan: GroupPlan,
    forced: str | None,
    wished: str | ForeignKernel | None,
    scale: float | None,
    return_shares: bool,
) -> tuple[Tensor, Tensor | None]:
    """By the first way that can do it, or with augmented heads on torch's choice of a kernel."""
    groups = runs.split(plan.tracked if return_shares else plan.joined)
    tiny = q_BHLD.shape[2] == 1 or any(group.stop - group.start == 1 for group in groups)
    situation = backends.Situation(q_BHLD.device, q_BHLD.dtype, q_BHLD.shape[3], tiny)
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHLD, *chain(*runs.runs)))
    # The merge works in place and the log-sum-exp has no gradient: only augmented heads can be differentiated.
    fits = runs.runs[0][1].shape[3] == q_BHLD.shape[3] and not differentiable
    call = Call(q_BHLD, runs, plan, scale, return_shares)
    for name in _kernels(forced, situation, fits):
        for way in ways(call, name, situation, None if forced else wished):
            try:
                result = call.run(way)
            except backends.KernelFailed as failure:
                if forced:
                    raise
                backends.reject(way.blame, way.situation(situation, plan), failure)
            else:
                backends.announce(way.name, situation, way.why)
                return result
    backends.announce(backends.AUGMENTED, situation)
    return _augmented(q_BHLD, runs, plan, scale, None, return_shares)


def _kernels(forced: str | None, situation: backends.Situation, fits: bool) -> Iterable[str]:
    """The kernels to try, best first; none = augmented heads."""
    if forced == backends.AUGMENTED:
        return ()
    kernels = backends.usable_kernels(situation) if fits else iter(())
    if forced is None:
        return kernels
    usable = tuple(kernels)
    if forced not in usable and not (fits and backends.is_usable(forced, situation)):
        raise ValueError(
            f"Attention backend {forced!r} cannot be used for {situation}{'' if fits else ' with these inputs'}; "
            f"usable are {', '.join((*usable, backends.AUGMENTED))}."
        )
    return (forced,)


def _augmented(
    q_BHLD: Tensor, runs: KeyRuns, plan: GroupPlan, scale: float | None, mask: Tensor | None, return_shares: bool
) -> tuple[Tensor, Tensor | None]:
    k_BHLD, v_BHLD = runs.concatenated()
    if not plan.shares:
        out_BHLD = augmented_attention(q_BHLD, k_BHLD, v_BHLD, plan, scale, mask)
        return out_BHLD, augmented_shares(q_BHLD, k_BHLD, plan, scale, mask) if return_shares else None
    attend = partial(augmented_attention, q_BHLD, k_BHLD, v_BHLD, scale=scale, mask=mask)
    out_BHLD = mix_levels(attend, v_BHLD, plan)
    if not return_shares:
        return out_BHLD, None
    # Attention to values that name the group of their key is the share of each group, head by head.
    owner_BHKG = owners_of_keys(plan, q_BHLD.device).expand(*k_BHLD.shape[:2], -1, -1)
    attend = partial(augmented_attention, q_BHLD.float(), k_BHLD.float(), owner_BHKG, scale=scale, mask=mask)
    return out_BHLD, mix_levels(attend, owner_BHKG, plan).mean(1).mT


def _no_keys(q_BHLD: Tensor, v_BHLD: Tensor, plan: GroupPlan, return_shares: bool) -> tuple[Tensor, Tensor | None]:
    """What attention to no key at all gives."""
    batch, heads, length, _ = q_BHLD.shape
    out_BHLD = q_BHLD.new_zeros(batch, heads, length, v_BHLD.shape[3])
    if not return_shares:
        return out_BHLD, None
    return out_BHLD, q_BHLD.new_zeros(batch, plan.num_groups + 1, length, dtype=torch.float32)


def _check(q_BHLD: Tensor, runs: KeyRuns, plan: GroupPlan) -> None:
    for k_BHLD, v_BHLD in runs.runs:
        _check_shapes(q_BHLD, k_BHLD, v_BHLD)
    if plan.num_keys != runs.num_keys:
        raise ValueError(f"The groups were prepared for {plan.num_keys} keys, but there are {runs.num_keys}.")
    _check_rows(q_BHLD, plan)


def _check_shapes(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor) -> None:
    q_shape, k_shape, v_shape = q_BHLD.shape, k_BHLD.shape, v_BHLD.shape
    if len(q_shape) != 4 or q_shape[:2] != k_shape[:2] or q_shape[3] != k_shape[3] or k_shape[:3] != v_shape[:3]:
        raise ValueError(
            f"q {tuple(q_shape)}, k {tuple(k_shape)} and v {tuple(v_shape)} do not fit; "
            "[batch, heads, tokens, head size] with equal batch, heads and head size is needed."
        )
    if not q_BHLD.dtype == k_BHLD.dtype == v_BHLD.dtype:
        raise ValueError(f"q, k and v have dtypes {q_BHLD.dtype}, {k_BHLD.dtype}, {v_BHLD.dtype}; one is needed.")


def _check_rows(q_BHLD: Tensor, plan: GroupPlan) -> None:
    """Whether the log weights and shares that are tensors fit the queries."""
    batch, heads, length, _ = q_BHLD.shape
    for owner, shape in plan.rows:
        queries = (1, length) if len(shape) == 3 else (length,)
        found = (*(1,) * (3 - len(shape)), *shape) if len(shape) != 2 else (shape[0], 1, shape[1])
        if any(size not in sizes for size, sizes in zip(found, ((1, batch), (1, heads), queries), strict=True)):
            raise ValueError(
                f"Group {owner} has weights or shares for batch {found[0]}, heads {found[1]} and {found[2]} queries, "
                f"but there are batch {batch}, {heads} heads and {length} queries."
            )
    for group in plan.tracked:
        for value in (group.log_weight, group.share):
            if isinstance(value, Tensor) and value.device != q_BHLD.device:
                raise ValueError(
                    f"The log weights or shares of group {group.owner} were prepared for {value.device}, "
                    f"but the queries are on {q_BHLD.device}."
                )
