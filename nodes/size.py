"""FLUX Image Size: a latent, and the size of its picture in pixels."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.sizes import MAX_SIDE, MULTIPLE, RATIOS, round_side, size_of_picture, size_of_ratio
from ..redux.typed import short
from .host.flux import NATIVE_SIDE, native_side
from .host.outputs import empty_latent
from .host.prompt_graph import given_in_prompt
from .types import CATEGORY

CUSTOM = "custom"
REFERENCE = "as the reference"


class ReduxSize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxSize",
            display_name="FLUX Image Size",
            category=CATEGORY,
            description="An empty FLUX latent from an aspect ratio and a number of megapixels. "
            "Sides are multiples of 16; the help page lists them.",
            search_aliases=["empty latent", "aspect ratio", "resolution", "megapixels", "image size"],
            inputs=[
                _aspect_input(),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.01,
                    max=16.0,
                    step=0.01,
                    tooltip="1 is the area of 1024 x 1024, where FLUX is at its best; 0.25, 1 and 2 are usual, "
                    "4 is its limit. A custom size does not read it.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Pictures made in one run."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Count megapixels in the model's own size: 1 is 1024 x 1024 for FLUX.1 and 128 x 128 for "
                    "the miniature.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="For a sampler of a FLUX.1 model."),
                io.Int.Output(display_name="width", tooltip="Pixels."),
                io.Int.Output(display_name="height", tooltip="Pixels."),
            ],
        )

    @classmethod
    def execute(
        cls, aspect_ratio: dict[str, Any] | None = None, megapixels: float = 1.0, batch_size: int = 1, model: Any = None
    ) -> io.NodeOutput:
        if model is not None:
            megapixels *= (native_side(model) / NATIVE_SIDE) ** 2
        width, height = choose_size(aspect_ratio or {"aspect_ratio": given_in_prompt("aspect_ratio")}, megapixels)
        return io.NodeOutput(empty_latent(width, height, batch_size), width, height)


def choose_size(aspect_ratio: dict[str, Any], megapixels: float) -> tuple[int, int]:
    """The size that the node's widgets mean, in pixels.

    Raises:
        ValueError: an aspect ratio that is not in the list, or "as the reference" without a picture.
    """
    kind = aspect_ratio.get("aspect_ratio")
    if kind in tuple(RATIOS):
        return size_of_ratio(str(kind), megapixels)
    if kind == CUSTOM:
        return round_side(aspect_ratio["width"]), round_side(aspect_ratio["height"])
    if kind == REFERENCE:
        image_BHWC: torch.Tensor | None = aspect_ratio.get("image")
        if image_BHWC is None:
            raise ValueError('The aspect ratio is "as the reference", so FLUX Image Size needs an image.')
        return size_of_picture(image_BHWC.shape[2], image_BHWC.shape[1], megapixels)
    found = "is missing" if kind is None else f"'{short(kind)}' is unknown"
    raise ValueError(f"The aspect ratio {found}; use {', '.join(RATIOS)}, {CUSTOM} or {REFERENCE}.")


def _aspect_input() -> io.Input:
    sides = [
        io.Int.Input(
            name, default=1024, min=MULTIPLE, max=MAX_SIDE, step=MULTIPLE, tooltip="Pixels; 512 to 1536 suit FLUX."
        )
        for name in ("width", "height")
    ]
    picture = io.Image.Input(
        "image", optional=True, tooltip="The picture whose aspect ratio is taken; its size does not matter."
    )
    return io.DynamicCombo.Input(
        "aspect_ratio",
        tooltip="Width to height. custom: sides of your own. as the reference: that of a connected image.",
        options=[
            *(io.DynamicCombo.Option(ratio, []) for ratio in RATIOS),
            io.DynamicCombo.Option(CUSTOM, sides),
            io.DynamicCombo.Option(REFERENCE, [picture]),
        ],
    )
