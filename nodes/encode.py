"""Encode Reference: pictures to tokens."""

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..redux.image import POSITIONS
from ..redux.preview import draw_views
from .host.model import HostedModel
from .types import CATEGORY, ReduxModelType, ReduxTokensType

MAX_TILES = 4


class ReduxEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxEncode",
            display_name="Encode Reference",
            category=CATEGORY,
            description="Reads reference pictures with the vision tower and turns them into tokens for FLUX. "
            "The preview shows what the tower sees; what it does not read is red.",
            search_aliases=["redux encode", "clip vision encode", "reference image", "image prompt"],
            inputs=[
                ReduxModelType.Input("redux", tooltip="From Load Redux."),
                io.Image.Input("image", tooltip="One or several reference pictures. Alpha says what is to be read."),
                _fit_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the reference is to be read. Load Image gives the inverse for transparency.",
                ),
                io.Boolean.Input(
                    "crop_to_mask",
                    optional=True,
                    default=False,
                    advanced=True,
                    tooltip="Cut the picture around the mask (or alpha) first, so that a small thing is seen large.",
                ),
                io.Float.Input(
                    "margin",
                    optional=True,
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Room around the mask when cropping to it, as a share of its longer side.",
                ),
            ],
            outputs=[ReduxTokensType.Output(display_name="tokens", tooltip="The reference, for Apply Redux.")],
        )

    @classmethod
    def execute(
        cls,
        redux: HostedModel,
        image: torch.Tensor,
        fit: dict[str, Any] | None = None,
        mask: torch.Tensor | None = None,
        crop_to_mask: bool = False,
        margin: float = 0.1,
    ) -> io.NodeOutput:
        kind, options = _read_fit(fit)
        budget = options.pop("token_budget", None)
        device, room = redux.patcher.load_device, margin if crop_to_mask else None
        views = redux.model.views(image, fit=kind, mask=mask, margin=room, device=device, **options)
        about = {"fit": kind, **options, "size": list(image.shape[1:3])}
        tokens = replace(redux.encode(views), about=about)
        if budget is not None:
            tokens = tokens.pool_to(budget)
        columns = options.get("tiles", (0, 0))[1] or None
        pictures = [draw_views(views, tokens, index, columns) for index in range(tokens.num_pictures)]
        return io.NodeOutput(tokens, ui=ui.PreviewImage(torch.stack(pictures), cls=cls))


def _read_fit(fit: dict[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """The fit's name and the options that `ReduxModel.views` takes, and the token budget of tiles."""
    if not fit or not fit.get("fit"):
        raise ValueError("The fit is missing or unknown; choose stretch, crop, pad, native or tiles.")
    options = dict(fit)
    kind = options.pop("fit")
    if kind == "tiles":
        options["tiles"] = (options.pop("rows"), options.pop("columns"))
    return kind, options


def _fit_input() -> io.Input:
    """How a picture meets the tower's square; each fit brings its own settings."""
    position = io.Combo.Input(
        "position",
        options=list(POSITIONS),
        default="center",
        tooltip="Which part of the picture the largest square is cut from.",
    )
    sides = [
        io.Int.Input(name, default=2, min=1, max=MAX_TILES, tooltip=f"{name.capitalize()} of tiles.")
        for name in ("rows", "columns")
    ]
    budget = io.Int.Input(
        "token_budget",
        default=1458,
        min=25,
        max=16384,
        tooltip="The views are averaged to fewer tokens until a picture has at most so many. "
        "A whole reference has 729; more tokens make each step slower.",
    )
    return io.DynamicCombo.Input(
        "fit",
        tooltip="How the picture meets the square that the tower reads. stretch is what Redux was trained on; crop "
        "cuts a square; pad adds borders that are not read; native keeps the aspect; tiles reads details.",
        options=[
            io.DynamicCombo.Option("stretch", []),
            io.DynamicCombo.Option("crop", [position]),
            io.DynamicCombo.Option("pad", []),
            io.DynamicCombo.Option("native", []),
            io.DynamicCombo.Option("tiles", [*sides, budget]),
        ],
    )
