"""Encode Reference: pictures to tokens."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.image import POSITIONS
from .host.model import HostedModel
from .types import CATEGORY, ReduxModelType, ReduxTokensType


class ReduxEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxEncode",
            display_name="Encode Reference",
            category=CATEGORY,
            description="Reads reference pictures with the vision tower and turns them into tokens for FLUX.",
            search_aliases=["redux encode", "clip vision encode", "reference image", "image prompt"],
            inputs=[
                ReduxModelType.Input("redux", tooltip="From Load Redux."),
                io.Image.Input("image", tooltip="One or several reference pictures. Alpha says what is to be read."),
                fit_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the reference is to be read. Load Image gives the inverse for transparency.",
                ),
            ],
            outputs=[ReduxTokensType.Output(display_name="tokens", tooltip="The reference, for Apply Redux.")],
        )

    @classmethod
    def execute(
        cls, redux: HostedModel, image: torch.Tensor, fit: dict[str, Any] | None, mask: torch.Tensor | None = None
    ) -> io.NodeOutput:
        options = dict(fit or {"fit": "stretch"})
        kind = options.pop("fit")
        if "position" in options:
            options["position"] = POSITIONS[options["position"]]
        return io.NodeOutput(redux.encode(image, fit=kind, mask=mask, **options))


def fit_input() -> io.Input:
    """How a picture meets the tower's square; each fit brings its own settings."""
    return io.DynamicCombo.Input(
        "fit",
        tooltip="How the picture meets the square that the tower reads. stretch is what Redux was trained on.",
        options=[
            io.DynamicCombo.Option("stretch", []),
            io.DynamicCombo.Option(
                "crop",
                [
                    io.Combo.Input(
                        "position",
                        options=list(POSITIONS),
                        default="center",
                        tooltip="Which part of the picture the largest square is cut from.",
                    )
                ],
            ),
        ],
    )
