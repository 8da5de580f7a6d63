"""Attention of somebody else that gives no log-sum-exp: a host's INT8 kernel, or any other that people choose.

Nothing can be merged without log-sum-exps, but queries do not depend on each other. So the queries are cut into blocks
whose keys weigh the same for all of them, and each block is one call over the keys that have any weight there: as it is
where these weigh the same (a share is a mixture of such calls, `mix_levels`), else with a bias for each key or with
augmented heads, whichever the kernel takes. Where each query has weights of its own, as in a region, all of them are
one block with augmented heads.

Shapes: B batch, H heads, L queries, K keys, D head size, S groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from .amounts import MASKED
from .augmented import Entries, augment
from .backends import KernelFailed
from .groups import Group, GroupPlan, join_groups
from .share import levels_of, mix_levels

MAX_BLOCKS = 6  # the references' own queries, text and image, and each Kontext picture's
# What stands for MASKED among augmented heads: e to this is nothing beside other keys, and a kernel that quantises
# keeps its steps small. With the INT8 of the tests a region is 0.020 off so (0.014 without weights); by a lower number,
# and entries of 1 in the keys, it would be 5.6.
FLOOR = -30.0
PLAIN, BIAS = "whole calls", "a bias for each key"
AUGMENTED, WIDE = "augmented heads", "augmented heads of a power of two"

Attend = Callable[[Tensor, Tensor, Tensor, float | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class ForeignKernel:
    """An attention that is called as it is.

    Attributes:
        name: for the log; a choice that was measured holds for all of one name.
        attend: (q [B, H, L, D], k, v [B, H, K, D], scale or None = D ** -0.5, bias [1, 1, 1, K] in fp32 or None) to
            the output [B, H, L, D]. It may raise anything.
        takes_bias: whether it takes the bias.
    """

    name: str
    attend: Attend = field(compare=False)
    takes_bias: bool = False

    def run(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None = None) -> Tensor:
        """Attention; raises KernelFailed for whatever it raises, and for an output of another shape."""
        try:
            out = self.attend(q, k, v, scale, bias)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # it is somebody else's, and ours can do the same work
            reason = (str(error).splitlines() or [""])[0]
            raise KernelFailed(f"the kernel of the host failed ({type(error).__name__}: {reason})") from error
        if out.shape != (*q.shape[:3], v.shape[3]):
            raise KernelFailed(f"the kernel of the host gave the shape {tuple(out.shape)} for {tuple(q.shape)}")
        return out


@dataclass(frozen=True, eq=False)
class QueryBlock:
    """Some queries, and the keys that they read.

    Attributes:
        keys: runs of keys (start, stop), of which `plan` knows the weights, one behind the other.
        even: they weigh the same.
        by_key: what they weigh is the same for all of the queries.
    """

    queries: slice
    keys: tuple[tuple[int, int], ...]
    plan: GroupPlan
    even: bool
    by_key: bool = True


_blocks: WeakKeyDictionary[GroupPlan, dict[tuple[int, bool], tuple[QueryBlock, ...]]] = WeakKeyDictionary()
_biases: WeakKeyDictionary[GroupPlan, dict[torch.device, Tensor]] = WeakKeyDictionary()


def foreign_attention(
    q_BHLD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    plan: GroupPlan,
    scale: float | None,
    kernel: ForeignKernel,
    form: str,
) -> Tensor:
    """The output [B, H, L, D], by one call for each block and share.

    Raises:
        KernelFailed: the kernel cannot do it in this form.
    """

    def attend(level: GroupPlan) -> Tensor:
        blocks = split(level, q_BHLD.shape[2])
        outs = [_attend(q_BHLD[:, :, block.queries], k_BHKD, v_BHKD, block, scale, kernel, form) for block in blocks]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)

    return mix_levels(attend, v_BHKD, plan) if plan.shares else attend(plan)


def forms(kernel: ForeignKernel, plan: GroupPlan, queries: int) -> tuple[str, ...]:
    """How weights may reach the kernel, the likeliest first."""
    levels = [level for level, _ in levels_of(plan)] if plan.shares else [plan]
    blocks = [block for level in levels for block in split(level, queries)]
    if all(block.even for block in blocks):
        return (PLAIN,)
    by_key = kernel.takes_bias and all(block.by_key for block in blocks)
    return (BIAS, AUGMENTED, WIDE) if by_key else (AUGMENTED, WIDE)


def split(plan: GroupPlan, queries: int) -> tuple[QueryBlock, ...]:
    """The blocks of a plan without shares, found once for it."""
    made = _blocks.setdefault(plan, {})
    key = queries, torch.is_inference_mode_enabled()
    if key not in made:
        made[key] = _split(plan, queries)
    return made[key]


def _split(plan: GroupPlan, queries: int) -> tuple[QueryBlock, ...]:
    weights = [group.log_weight for group in plan.joined]
    tables = [weight for weight in weights if isinstance(weight, Tensor)]
    if any(table.shape[:2] != (1, 1) for table in tables):
        return (_whole(plan, queries),)
    # Waits for the GPU, once for a plan, which serves all blocks and most steps.
    rows = [table.flatten().expand(queries).tolist() for table in tables]
    columns = iter(rows)
    table_SL = [next(columns) if isinstance(weight, Tensor) else [weight] * queries for weight in weights]
    found = list(zip(*table_SL, strict=True))  # for each query the weights of the groups
    starts = [query for query in range(queries) if query == 0 or found[query] != found[query - 1]]
    if len(starts) > MAX_BLOCKS:
        return (_whole(plan, queries),)
    stops = [*starts[1:], queries]
    return tuple(_block(plan, slice(start, stop), found[start]) for start, stop in zip(starts, stops, strict=True))


def _whole(plan: GroupPlan, queries: int) -> QueryBlock:
    groups = plan.joined
    start, stop = groups[0].start, groups[-1].stop
    return QueryBlock(slice(0, queries), ((start, stop),), plan, even=False, by_key=False)


def _block(plan: GroupPlan, queries: slice, weights: tuple[float, ...]) -> QueryBlock:
    """Queries for which each group has one weight."""
    keys: list[tuple[int, int]] = []
    groups: list[Group] = []
    length = 0
    for group, weight in zip(plan.joined, weights, strict=True):
        if weight <= MASKED / 2:
            continue
        size = group.stop - group.start
        groups.append(replace(group, start=length, stop=length + size, log_weight=weight, can_be_masked=False))
        length += size
        if keys and keys[-1][1] == group.start:
            keys[-1] = keys[-1][0], group.stop
        else:
            keys.append((group.start, group.stop))
    joined = join_groups(groups)
    return QueryBlock(queries, tuple(keys), GroupPlan(length, plan.num_groups, joined, joined, ()), len(joined) <= 1)


def _attend(
    q_BHLD: Tensor,
    k_BHKD: Tensor,
    v_BHKD: Tensor,
    block: QueryBlock,
    scale: float | None,
    kernel: ForeignKernel,
    form: str,
) -> Tensor:
    if not block.keys:
        return q_BHLD.new_zeros(*q_BHLD.shape[:3], v_BHKD.shape[3])
    k_BHKD, v_BHKD = (_take(x_BHKD, block.keys) for x_BHKD in (k_BHKD, v_BHKD))
    if block.even:
        return kernel.run(q_BHLD, k_BHKD, v_BHKD, scale)
    if form == BIAS:
        return kernel.run(q_BHLD, k_BHKD, v_BHKD, scale, _bias(block.plan, q_BHLD.device))
    scale = q_BHLD.shape[-1] ** -0.5 if scale is None else scale
    width = v_BHKD.shape[-1]
    groups = block.plan.joined
    q_BHLD, k_BHKD, entries = augment(q_BHLD, k_BHKD, block.plan, groups, scale, FLOOR)
    size = q_BHLD.shape[-1] if form == AUGMENTED else 1 << (q_BHLD.shape[-1] - 1).bit_length()
    q_BHLD, k_BHKD, v_BHKD = (F.pad(x, (0, size - x.shape[-1])) for x in (q_BHLD, k_BHKD, v_BHKD))
    out_BHLD = kernel.run(q_BHLD, k_BHKD, v_BHKD, scale)[..., :width]
    fully_masked_bhl = _fully_masked(groups, entries)
    return out_BHLD if fully_masked_bhl is None else out_BHLD.masked_fill(fully_masked_bhl.unsqueeze(-1), 0)


def _take(x_BHKD: Tensor, keys: tuple[tuple[int, int], ...]) -> Tensor:
    pieces = [x_BHKD[:, :, start:stop] for start, stop in keys]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def _bias(plan: GroupPlan, device: torch.device) -> Tensor:
    """The log weights of the keys [1, 1, 1, K] in fp32."""
    made = _biases.setdefault(plan, {})
    if device not in made:
        numbers = [(float(group.log_weight), group.stop - group.start) for group in plan.joined]
        bias_K = torch.cat([torch.full((size,), number) for number, size in numbers])
        made[device] = bias_K.to(device).reshape(1, 1, 1, -1)
    return made[device]


def _fully_masked(groups: tuple[Group, ...], entries: Entries) -> Tensor | None:
    """Queries for which no group has any weight, bool [b, h, l]; None where there can be none."""
    reads = [read_bhl for read_bhl in entries.read_Sbhl if read_bhl is not None]
    if len(reads) < len(groups):
        return None
    fully_masked_bhl = ~reads[0]
    for read_bhl in reads[1:]:
        fully_masked_bhl = fully_masked_bhl & ~read_bhl
    return fully_masked_bhl
