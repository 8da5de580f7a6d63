"""Kontext's pictures for tests: in a conditioning, weighed by the node, and dense attention to compare with.

Keys stand as [references | text | image | pictures]. Every query is weighed but a picture's own.

Shapes: B images, L queries, Q of them text and image, Y x X pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from redux_scene import region_weights
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

TEXT, IMAGE = 8, 64
SIZES = ((16, 16), (11, 14))  # of the latents
COUNTS = (64, 42)  # their tokens
Amount = float | Tensor


def latent(index: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(index))


def with_pictures(conditioning: list, sizes: Sequence[tuple[int, int]] = SIZES, method: str | None = None) -> list:
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod as Method

    for index, size in enumerate(sizes):
        conditioning = ReferenceLatent.execute(conditioning, {"samples": latent(index, size)}).args[0]
    return conditioning if method is None else Method.execute(conditioning, method).args[0]


def weigh(scene: Any, conditioning: list, picture: int = 0, strength: float = 1.0, **options: Any) -> list:
    return scene.nodes["ReduxWeighLatents"].execute(conditioning, picture, strength, **options).args[0]


def mask(batch: int = 1) -> Tensor:
    return torch.rand(batch, 16, 16, generator=torch.Generator().manual_seed(3))


def amounts_of(*amounts: Amount, first: int = 0) -> list[tuple[int, int, Tensor]]:
    """Keys start..stop of each picture and its amount for all queries [B, L]: a number, or [text + image] for each row.

    Of a region the references, `first` tokens, read the mean, and the other picture all.
    """
    stop, groups = first + TEXT + IMAGE, []
    length = stop + sum(COUNTS[: len(amounts)])
    for amount, count in zip(amounts, COUNTS, strict=False):
        start, stop = stop, stop + count
        if isinstance(amount, Tensor):
            strength, region_BQ = amount[:, :1], amount[:, 1:]
            parts = [
                region_BQ[:, :1].expand(-1, first),
                region_BQ,
                torch.ones(len(amount), sum(COUNTS[: len(amounts)])),
            ]
            rows = strength * torch.cat(parts, dim=1)
        else:
            rows = torch.full((1, length), amount)
        rows[:, start:stop] = 1
        groups.append((start, stop, rows))
    return groups


def regional(strength: float, region_BYX: Tensor) -> Tensor:
    rows = torch.stack([region_weights(region_YX, TEXT, (16, 16)) for region_YX in region_BYX])
    return torch.cat((torch.full((len(rows), 1), strength), rows), dim=1)


def attend_by(groups: Sequence[tuple[int, int, Tensor]], response: str) -> Callable[..., Tensor]:
    """Dense attention; "weight": a bias, "even": to the keys whose amount exceeds t, for all t from 0 to 1."""

    def attend(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, **_: Any) -> Tensor:
        q, k, v = (part.double() for part in (q, k, v))
        if response == "weight":
            bias = q.new_zeros(len(q), 1, k.shape[2], k.shape[2])
            for start, stop, rows in groups:
                bias[..., start:stop] = rows.double().log()[:, None, :, None]
            bias = bias[:, :, : q.shape[2]]
            return scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2).float()
        rows = torch.stack([rows.to(q).expand(len(q), -1) for _, _, rows in groups])
        bounds = torch.cat((torch.zeros_like(rows[:1]), rows, torch.ones_like(rows[:1]))).sort(0).values
        out = torch.zeros_like(q)
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            there = torch.ones(len(q), 1, *(k.shape[2],) * 2, dtype=torch.bool, device=q.device)
            for (start, stop, _), amount in zip(groups, rows, strict=True):
                there[:, 0, :, start:stop] = (amount >= high)[..., None]
            out += scaled_dot_product_attention(q, k, v, attn_mask=there) * (high - low)[:, None, :, None]
        return out.transpose(1, 2).flatten(2).float()

    return attend


def dense_model(scene: Any, attend: Callable[..., Tensor], model: Any = None) -> Any:
    model = (model or scene.flux).clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = attend
    return model
