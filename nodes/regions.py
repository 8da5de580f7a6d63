"""Redux Regions: boxes drawn over a picture, one region for each reference."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.boxes import LAYOUTS, MAX_BOXES, check_layout, draw_preview, draw_regions, parse_boxes, regions_of_layout
from .host.mask import NO_ALPHA
from .host.preview import save_previews
from .types import CATEGORY

DRAWN = "drawn boxes"
PREVIEW = "redux_regions"


class ReduxRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxRegions",
            display_name="Redux Regions",
            category=CATEGORY,
            description="Regions for references: draw boxes on the node, write them as numbers, or choose a layout. "
            "Each output is one region, for the region of an Apply Redux.",
            search_aliases=["region", "regional", "regions", "mask", "bounding box", "area", "left right"],
            inputs=_inputs(),
            outputs=[
                io.Mask.Output(
                    display_name=f"region {number}",
                    tooltip="For the region of an Apply Redux. Without a box of this number it is empty: no reference.",
                )
                for number in range(1, MAX_BOXES + 1)
            ],
        )

    @classmethod
    def validate_inputs(cls, layout: str | None = None, boxes: str | None = None) -> bool | str:
        """Refuse before anything runs; None is connected, or left at its default."""
        try:
            if layout not in (None, DRAWN):  # named here, it is not compared with its list by ComfyUI
                check_layout(layout)
            elif layout == DRAWN and isinstance(boxes, str):
                parse_boxes(boxes)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        layout: str,
        boxes: str = "0, 0, 50, 100\n50, 0, 50, 100",
        softness: float = 0.0,
        width: int = 1024,
        height: int = 1024,
        background: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        if background is not None:
            height, width = background.shape[1:3]
        if (height, width) == NO_ALPHA:  # an empty region of this size would be read as none, that is, everywhere
            height, width = 2 * height, 2 * width
        if layout == DRAWN:
            regions_RYX = draw_regions(parse_boxes(boxes), height, width, softness)
        else:
            regions_RYX = regions_of_layout(layout, height, width, softness)
        drawing_YX3 = draw_preview(regions_RYX, None if background is None else background[0])
        empty_1YX = regions_RYX.new_zeros(1, height, width)
        masks = [*regions_RYX.split(1), *[empty_1YX] * (MAX_BOXES - len(regions_RYX))]
        # Not under "images": the node's canvas shows it, where the page would put a second picture below the canvas.
        return io.NodeOutput(*masks, ui={PREVIEW: save_previews([drawing_YX3])["images"]})


def _inputs() -> list[io.Input]:
    sides: list[Any] = [
        io.Int.Input(
            name,
            optional=True,
            default=1024,
            min=16,
            max=8192,
            step=16,
            tooltip="Pixels of the regions; only the aspect ratio matters. The background's size is taken instead.",
        )
        for name in ("width", "height")
    ]
    return [
        io.Combo.Input(
            "layout",
            options=[DRAWN, *LAYOUTS],
            default=DRAWN,
            tooltip="drawn boxes: those below. The others divide the picture by themselves.",
        ),
        io.String.Input(
            "boxes",
            optional=True,
            multiline=True,
            default="0, 0, 50, 100\n50, 0, 50, 100",
            tooltip="One box a line: x, y, width, height in percent of the picture. Drawing on the node writes them.",
        ),
        io.Float.Input(
            "softness",
            optional=True,
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How far the edges fade, as a share of the picture's shorter side; boxes that touch sum to one.",
        ),
        *sides,
        io.Image.Input("background", optional=True, tooltip="A picture to draw over; it changes nothing else."),
    ]
