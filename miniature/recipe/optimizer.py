"""The optimizers of the joint training and their learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

WARM_UP = 400
FINAL_RATE = 0.01


class Optimizer:
    """Muon for the matrices inside blocks and AdamW for all else, or AdamW for everything."""

    def __init__(self, model: nn.Module, rate: float, muon: bool) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, value in model.named_parameters():
            inside = muon and value.ndim == 2 and "blocks." in name
            (matrices if inside else others).append(value)
        fused = others[0].is_cuda
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, rate, betas=(0.9, 0.95), weight_decay=0.01, fused=fused)
        ]
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))

    def step(self, rate: float) -> None:
        for part in self.parts:
            part.param_groups[0]["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)


def rate_at(peak: float, progress: float, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * min(1.0, (step + 1) / WARM_UP) * max(FINAL_RATE, cosine)
