"""Apply Redux: put a reference into a conditioning."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.tokens import ReduxTokens
from .host.conditioning import prepend
from .types import CATEGORY, ReduxTokensType


class ReduxApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxApply",
            display_name="Apply Redux",
            category=CATEGORY,
            description="Puts a reference into a conditioning, beside the text.",
            search_aliases=["redux apply", "style model apply", "reference", "image prompt", "ip adapter flux"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From a text encoder."),
                ReduxTokensType.Input("tokens", tooltip="From Encode Reference."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=1.0,
                    tooltip="0 is exactly the picture without the reference, 1 plain Redux.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For any sampler of a FLUX.1 model.")],
        )

    @classmethod
    def execute(cls, conditioning: list[list[Any]], tokens: ReduxTokens, strength: float = 1.0) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(conditioning)
        return io.NodeOutput(prepend(conditioning, torch.cat(tokens.kept())[None]))
