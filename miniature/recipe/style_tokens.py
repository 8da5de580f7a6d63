"""The projector's side: a linear part of reference tokens that says style alone, from pairs that differ in style only.

Each of some objects is drawn in every style, all else equal. What a style does to the tokens, on the mean over objects,
is its effect; a linear map from a reference's tokens (each beside the mean of all) to the effect of its style is found
by ridge regression. The tokens of a new reference are replaced by the mean of all tokens plus what the map gives. The
true effect in its place is the best that any map can do.

Shapes: O objects, S styles, N tokens, W width, B references.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .evaluate import portraits
from .sampling import Miniature
from .scenes import Emoji
from .vocabulary import STYLES

RIDGE = 1e-2  # of the mean square of an input


@dataclass(frozen=True)
class StylePart:
    """Mean tokens [N, W], the effect of each style [S, N, W], and the map [2 W, W]."""

    mean: Tensor
    effects: Tensor
    matrix: Tensor

    @classmethod
    def fit(cls, mini: Miniature, emoji: Emoji, objects: Tensor) -> StylePart:
        scenes = portraits(objects, plain=True)
        rows = []
        for style in range(len(STYLES)):
            drawn = replace(scenes, styles=torch.full_like(scenes.styles, style))
            rows.append(mini.refer(emoji.draw(drawn)))
        tokens_OSNW = torch.stack(rows, 1)
        mean_NW = tokens_OSNW.mean((0, 1))
        effects_SNW = (tokens_OSNW - tokens_OSNW.mean(1, keepdim=True)).mean(0)
        inputs = _beside_mean((tokens_OSNW - mean_NW).flatten(0, 1)).flatten(0, 1)
        wanted = effects_SNW.expand_as(tokens_OSNW).flatten(0, 2)
        square = inputs.T @ inputs
        square += RIDGE * square.diagonal().mean() * torch.eye(len(square), device=square.device)
        return cls(mean_NW, effects_SNW, torch.linalg.solve(square, inputs.T @ wanted))

    def of(self, tokens_BNW: Tensor) -> Tensor:
        """Tokens that say the style of these alone, as far as a linear map can tell it."""
        return self.mean + _beside_mean(tokens_BNW - self.mean) @ self.matrix

    def true(self, styles_B: Tensor) -> Tensor:
        """The mean tokens of a style."""
        return self.mean + self.effects[styles_B]


def _beside_mean(tokens_BNW: Tensor) -> Tensor:
    return torch.cat((tokens_BNW, tokens_BNW.mean(1, keepdim=True).expand_as(tokens_BNW)), -1)
