"""The Redux projector: vision tokens to the width of FLUX's text stream.

Shapes: B pictures, N tokens, V vision width, T text width.
Source: `ReduxImageEncoder` of the black-forest-labs/flux repository.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .config import ReduxConfig


class ReduxProjector(nn.Module):
    """redux_down(silu(redux_up(tokens))). The attribute names are the keys of `flux1-redux-dev.safetensors`."""

    def __init__(
        self,
        config: ReduxConfig,
        *,
        operations: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.config = config
        self.redux_up = operations.Linear(config.in_features, config.hidden_features, **place)
        self.redux_down = operations.Linear(config.hidden_features, config.out_features, **place)

    def forward(self, tokens_BNV: Tensor) -> Tensor:
        """Tokens [B, N, V] -> [B, N, T], in the input's dtype."""
        return self.redux_down(silu(self.redux_up(tokens_BNV)))
