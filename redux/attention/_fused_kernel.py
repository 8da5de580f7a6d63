"""The Triton kernels of `fused.py`; importing this imports Triton."""

# mypy: ignore-errors
import triton
import triton.language as tl


@triton.jit
def merge_rows(
    out, part1, part2, part3, logit0, logit1, logit2, logit3, total, rows, heads, length,
    stride_b, stride_h, stride_l, COUNT: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out = sum_i softmax_i(logit) part_i and total = logsumexp_i(logit), for ROWS rows of D entries; part 0 is out."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < rows
    batch, head, query = row // (heads * length), (row // length) % heads, row % length
    start = batch.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h + query.to(tl.int64) * stride_l
    place = start[:, None] + tl.arange(0, D)[None, :]
    inside = here[:, None]
    g0 = tl.load(logit0 + row, mask=here, other=0.0)
    g1 = tl.load(logit1 + row, mask=here, other=0.0)
    top = tl.maximum(g0, g1)
    if COUNT > 2:
        g2 = tl.load(logit2 + row, mask=here, other=0.0)
        top = tl.maximum(top, g2)
    if COUNT > 3:
        g3 = tl.load(logit3 + row, mask=here, other=0.0)
        top = tl.maximum(top, g3)
    e0 = tl.exp(g0 - top)
    e1 = tl.exp(g1 - top)
    weight = e0 + e1
    mixed = e0[:, None] * tl.load(out + place, mask=inside, other=0.0).to(tl.float32)
    mixed += e1[:, None] * tl.load(part1 + place, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 2:
        e2 = tl.exp(g2 - top)
        weight += e2
        mixed += e2[:, None] * tl.load(part2 + place, mask=inside, other=0.0).to(tl.float32)
    if COUNT > 3:
        e3 = tl.exp(g3 - top)
        weight += e3
        mixed += e3[:, None] * tl.load(part3 + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (mixed / weight[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(total + row, top + tl.log(weight), mask=here)


@triton.jit
def mixture_logits(
    lse, share, out, count, rows, heads, length, stride_n, stride_b, stride_h, stride_l,
    MASKED: tl.constexpr, MOST: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out_k = log of what part k counts in the mixture (`share.py`), for ROWS rows of `count` parts, MOST at most.

    With T_j the log-sum-exp of the parts whose share is at least s_j, and d_j what s_j is above the next lower share,
    part k counts the sum of d_j exp(lse_k - T_j) over all s_j up to s_k. Nothing is sorted: parts are compared in
    pairs, of equal shares the earlier one as the larger.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.arange(0, MOST)
    inside = (row < rows)[:, None] & (part < count)[None, :]
    batch, head, query = row // (heads * length), (row // length) % heads, row % length
    place = batch.to(tl.int64) * stride_b + head.to(tl.int64) * stride_h + query.to(tl.int64) * stride_l
    own = part.to(tl.int64)[None, :]
    logit = tl.load(lse + own * rows + row[:, None], mask=inside, other=MASKED)
    level = tl.load(share + own * stride_n + place[:, None], mask=inside, other=-1.0)
    upper, lower = level[:, :, None], level[:, None, :]  # of i (or k) and j
    above = (upper > lower) | ((upper == lower) & (part[:, None] <= part[None, :])[None, :, :])
    logits = tl.broadcast_to(logit[:, :, None], ROWS, MOST, MOST)
    top = tl.max(tl.where(above, logits, 2 * MASKED), axis=1)
    total = top + tl.log(tl.sum(tl.where(above, tl.exp(logits - top[:, None, :]), 0.0), axis=1))
    below = tl.max(tl.where(above, 0.0, tl.broadcast_to(upper, ROWS, MOST, MOST)), axis=1)
    width = tl.where(level < 0, 0.0, level - tl.maximum(below, 0.0))
    empty = (total < MASKED / 2)[:, None, :]
    counted = tl.where(empty, (part == 0).to(tl.float32)[None, :, None], tl.exp(logits - total[:, None, :]))
    found = tl.sum(tl.where(above, width[:, None, :] * counted, 0.0), axis=2)
    tl.store(out + own * rows + row[:, None], tl.log(tl.maximum(found, 1e-37)), mask=inside)
