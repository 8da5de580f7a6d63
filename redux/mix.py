"""Several references as one.

Shapes: B pictures, N tokens, D text width, M references.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .tokens import Part, ReduxTokens
from .typed import short

Combine = Callable[[Tensor, Tensor], Tensor]  # tokens [M, B, N, D], weights [M, B, N, 1] -> [B, N, D]


def mix(
    references: Sequence[ReduxTokens], method: str = "average", weights: Sequence[float] | None = None
) -> ReduxTokens:
    """Combine references.

    "join" sets them side by side: FLUX reads each, with its weight in attention, and the grids may differ. All other
    methods make one token of the tokens at each place; references of different single grids are first pooled by area
    to the smaller side of each. A token that is dropped has no say there, nor has a reference of weight 0.

    Args:
        references: of one encoder, width and number of pictures.
        method: one of `METHODS`:
            average: mean with the weights. norm average: the mean of the directions, at the mean length. slerp: along
            the great circle between the directions, one reference after the other. add: weighted sum. subtract: the
            first minus the others, where the first is read. max: the largest of the weighted numbers.
        weights: one for each reference; None = 1 each.

    Raises:
        ValueError: no references, an unknown method, weights that do not fit or have no meaning or lead to numbers
            that the tokens cannot hold, references that differ in what they must share.
    """
    references = list(references)
    if method not in METHODS:
        raise ValueError(f"There is no method '{short(method)}'; choose one of {', '.join(METHODS)}.")
    check_alike(references, "mix")
    weights = [1.0] * len(references) if weights is None else [float(weight) for weight in weights]
    _check_weights(weights, len(references), method)
    about = {"mix": method, "weights": weights, "of": [dict(reference.about) for reference in references]}
    used = [index for index, weight in enumerate(weights) if weight or (method == "subtract" and index == 0)]
    references, weights = [references[index] for index in used], [weights[index] for index in used]
    mixed = _join(references, weights) if method == "join" else _combine(references, weights, method)
    return replace(mixed, about=about)


def _check_weights(weights: list[float], count: int, method: str) -> None:
    if len(weights) != count:
        raise ValueError(f"There are {len(weights)} weights for {count} references; one for each is needed.")
    if not all(math.isfinite(weight) for weight in weights) or not any(weights):
        raise ValueError(f"The weights are {weights}; finite numbers, not all 0, are needed.")
    if method in ("join", *AVERAGES) and min(weights) < 0:
        raise ValueError(f"The weights for {method} are {weights}; numbers from 0 up are needed.")


def _join(references: list[ReduxTokens], weights: list[float]) -> ReduxTokens:
    weighted = [
        replace(reference, parts=tuple(replace(part, weight=part.weight * weight) for part in reference.parts))
        for reference, weight in zip(references, weights, strict=True)
    ]
    return cat_tokens(weighted, lambda all_: tuple(part for reference in all_ for part in reference.parts))


def _combine(references: list[ReduxTokens], weights: list[float], method: str) -> ReduxTokens:
    """One token of the tokens at each place; computed in fp32 on the first reference's device."""
    device = references[0].tokens.device
    references = _same_parts([reference.to(device) for reference in references], method)
    first = references[0]
    tokens_MBND = torch.stack([reference.tokens.float() for reference in references])
    covers_MBN1 = torch.stack([_coverage(reference) for reference in references])[..., None]
    shares_MBN1 = covers_MBN1 if method in AVERAGES else (covers_MBN1 > 0).float()
    # Of averages only the weights' ratios count: scaled, they stay in the range of fp32, and so does their sum.
    scale = max(weights) if method in AVERAGES else 1.0
    weights_MBN1 = torch.tensor([weight / scale for weight in weights], device=device).reshape(-1, 1, 1, 1)
    mixed_BND = COMBINE[method](tokens_MBND, weights_MBN1 * shares_MBN1).to(first.tokens.dtype)
    coverage = first.coverage
    if method != "subtract" and any(reference.coverage is not None for reference in references):
        coverage = covers_MBN1[..., 0].amax(0)
    mixed = replace(first, tokens=mixed_BND, coverage=coverage, encoder=common_encoder(references))
    if not mixed.is_finite:
        for reference in references:
            reference.check_finite()
        raise ValueError(f"With the weights {weights} the result of {method} overflows; smaller weights are needed.")
    return mixed


def _same_parts(references: list[ReduxTokens], method: str) -> list[ReduxTokens]:
    """The references on one grid."""
    if len({reference.grids for reference in references}) > 1:
        if any(len(reference.grids) > 1 for reference in references):
            raise ValueError(
                f"References with tiles or joined parts have no common grid for {method}; join them instead."
            )
        rows, columns = (min(reference.grid[axis] for reference in references) for axis in (0, 1))
        references = [reference.pool((rows, columns)) for reference in references]
    if len({reference.parts for reference in references}) > 1:
        raise ValueError(
            f"The references were joined with weights of their own, or are of different towers, which {method} cannot "
            "keep; mix first and join afterwards."
        )
    return references


def _coverage(reference: ReduxTokens) -> Tensor:
    if reference.coverage is None:
        return reference.tokens.new_ones(reference.tokens.shape[:2], dtype=torch.float32)
    return reference.coverage


def _average(tokens_MBND: Tensor, weights_MBN1: Tensor) -> Tensor:
    return (tokens_MBND * weights_MBN1).sum(0) / weights_MBN1.sum(0).clamp(min=1e-12)


def _norm_average(tokens_MBND: Tensor, weights_MBN1: Tensor) -> Tensor:
    lengths_MBN1 = tokens_MBND.norm(dim=-1, keepdim=True)
    directions_BND = _average(tokens_MBND / lengths_MBN1.clamp(min=1e-12), weights_MBN1)
    directions_BND = directions_BND / directions_BND.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return directions_BND * _average(lengths_MBN1, weights_MBN1)


def _slerp(tokens_MBND: Tensor, weights_MBN1: Tensor) -> Tensor:
    mixed_BND, total_BN1 = tokens_MBND[0], weights_MBN1[0]
    for next_BND, weight_BN1 in zip(tokens_MBND[1:], weights_MBN1[1:], strict=True):
        total_BN1 = total_BN1 + weight_BN1
        mixed_BND = _slerp_two(mixed_BND, next_BND, weight_BN1 / total_BN1.clamp(min=1e-12))
    return mixed_BND


def _slerp_two(a_BND: Tensor, b_BND: Tensor, t_BN1: Tensor) -> Tensor:
    """Shoemake 1985 between the directions, linear between the lengths; a straight line where they coincide."""
    length_a, length_b = a_BND.norm(dim=-1, keepdim=True), b_BND.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a_BND / length_a.clamp(min=1e-12), b_BND / length_b.clamp(min=1e-12)
    angle = (unit_a * unit_b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    near = sine.abs() < 1e-4
    sine = torch.where(near, 1, sine)
    share_a = torch.where(near, 1 - t_BN1, ((1 - t_BN1) * angle).sin() / sine)
    share_b = torch.where(near, t_BN1, (t_BN1 * angle).sin() / sine)
    return (share_a * unit_a + share_b * unit_b) * torch.lerp(length_a, length_b, t_BN1)


def _add(tokens_MBND: Tensor, weights_MBN1: Tensor) -> Tensor:
    return (tokens_MBND * weights_MBN1).sum(0)


def _subtract(tokens_MBND: Tensor, weights_MBN1: Tensor) -> Tensor:
    return tokens_MBND[0] * weights_MBN1[0] - _add(tokens_MBND[1:], weights_MBN1[1:])


def _max(tokens_MBND: Tensor, weights_MBN1: Tensor) -> Tensor:
    """Of the tokens that are read; 0 where none is."""
    weighted_MBND = torch.where(weights_MBN1 == 0, -torch.inf, tokens_MBND * weights_MBN1)
    return torch.where((weights_MBN1 == 0).all(0), 0, weighted_MBND.amax(0))


AVERAGES = ("average", "norm average", "slerp")
COMBINE: dict[str, Combine] = {
    "average": _average,
    "norm average": _norm_average,
    "slerp": _slerp,
    "add": _add,
    "subtract": _subtract,
    "max": _max,
}
METHODS = ("join", *COMBINE)


def check_alike(references: Sequence[ReduxTokens], doing: str) -> None:
    """Raises ValueError unless there are references, all of as many pictures, of one width and of one encoder."""
    if not references:
        raise ValueError(f"There are no references to {doing}; at least one is needed.")
    first = references[0]
    for other in references[1:]:
        if (other.num_pictures, other.width) != (first.num_pictures, first.width):
            raise ValueError(
                f"References of {first.num_pictures} and {other.num_pictures} pictures, widths {first.width} and "
                f"{other.width}, are there to {doing}; both numbers must be equal."
            )
    encoders = list(dict.fromkeys(reference.encoder for reference in references if reference.encoder))
    if len(encoders) > 1:
        raise ValueError(
            f"References of two encoders ({encoders[0]}, {encoders[1]}) are there to {doing}; one is needed."
        )


def cat_tokens(
    references: Sequence[ReduxTokens], merge: Callable[[Sequence[ReduxTokens]], tuple[Part, ...]]
) -> ReduxTokens:
    """References one after the other in the sequence, `merge` says as which parts; device and dtype of the first."""
    first = references[0]
    references = [reference.to(first.tokens.device, first.tokens.dtype) for reference in references]
    coverage = None
    if any(reference.coverage is not None for reference in references):
        coverage = torch.cat([cover_BN for reference in references for _, cover_BN, _ in reference.by_view()], dim=1)
    tokens = torch.cat([reference.tokens for reference in references], dim=1)
    return ReduxTokens(tokens, merge(references), coverage, common_encoder(references))


def common_encoder(references: Sequence[ReduxTokens]) -> str:
    """The name of the encoder that made all of them; "" where that is not known of each."""
    names = {reference.encoder for reference in references}
    return names.pop() if len(names) == 1 else ""
