"""Matrices kept as fp8 numbers with a scale for each row.

fp8 keeps three or four bits of a number only in its middle range; most weights of the vision tower are smaller. ComfyUI
applies the functions of `add_weight_wrapper` to a weight when it has cast it for a layer, which brings the scale back.

Shapes: O outputs and I inputs of a layer.
"""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher


class RowScale:
    """Multiplies the rows of a weight."""

    def __init__(self, scale_O: torch.Tensor) -> None:
        self.scale_O = scale_O

    def __call__(self, weight_OI: torch.Tensor) -> torch.Tensor:
        return weight_OI * self.scale_O.to(weight_OI)[:, None]

    def move_to(self, device: torch.device) -> int:
        """ComfyUI moves the functions of a layer with it, and counts their bytes."""
        self.scale_O = self.scale_O.to(device)
        return self.scale_O.nbytes


def scale_rows(weight_OI: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight in an fp8 dtype, and the fp32 scale [O] of its rows.

    Scales are powers of two, with which every row reaches into the upper half of the dtype's range: a weight that
    comes from an fp8 file stays as it is.
    """
    weight_OI = weight_OI.float()
    largest_O = weight_OI.abs().amax(dim=1)
    scale_O = torch.exp2(torch.ceil(torch.log2(largest_O / torch.finfo(dtype).max)))
    scale_O = torch.where(largest_O > 0, scale_O, 1.0)
    return (weight_OI / scale_O[:, None]).to(dtype), scale_O


def store_as_fp8(
    model: torch.nn.Module,
    state_dict: dict[str, torch.Tensor],
    dtype: torch.dtype,
    rest: torch.dtype,
    device: torch.device,
) -> dict[str, RowScale]:
    """Load weights into a model whose layers cast them, its matrices in an fp8 dtype and the small `rest` in another.

    Returns:
        What `keep_scales` takes, by the weight's name.
    """
    linear = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    stored, scales = {}, {}
    for name, weight in state_dict.items():
        if name in linear:
            matrix_OI, scale_O = scale_rows(weight, dtype)
            stored[name], scales[name] = matrix_OI.to(device), RowScale(scale_O)
        else:
            stored[name] = weight.to(device, rest)
    model.load_state_dict(stored, assign=True)
    return scales


def keep_scales(patcher: ModelPatcher, scales: dict[str, RowScale]) -> None:
    for name, scale in scales.items():
        patcher.add_weight_wrapper(name, scale)
