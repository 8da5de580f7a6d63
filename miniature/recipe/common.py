"""Small things that the training scripts share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn


def channels_last(module: nn.Module) -> nn.Module:
    """The module itself, with its convolution weights in the layout that GPUs are fastest with."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def half(device: torch.device) -> torch.autocast:
    """Computing in bfloat16 on a GPU; many a processor is slower with it than in full precision, so there not."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu")


def save_atomically(value: Any, path: Path) -> None:
    """Write beside the file and rename, so that a stop in between leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(value, part)
    os.replace(part, path)
