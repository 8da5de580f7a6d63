"""The Triton kernel of `fused.py`; importing this imports Triton."""

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
