"""Redux Influence Map: where each reference and the prompt acted."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.heatmap import draw_influence
from ..redux.influence import Influence
from .host.conditioning import find_mark
from .types import CATEGORY


class ReduxInfluence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxInfluence",
            display_name="Redux Influence Map",
            category=CATEGORY,
            description="Draws where each reference and the prompt acted: the share of attention that every part of "
            "the picture gave them, averaged over heads, blocks and steps.",
            search_aliases=["attention map", "heat map", "redux influence", "daam"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The conditioning that was sampled, from Apply Redux."),
                io.Image.Input("images", tooltip="The pictures that were made with it, from VAE Decode."),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="A sheet for each picture: the picture, then a map for each reference, the text and the "
                    "picture's own attention. The numbers are mean shares."
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning: list[list[Any]], images: torch.Tensor) -> io.NodeOutput:
        influences = recorded(conditioning)
        sheets = [
            draw_influence(picture_YX3, influence.maps_BSyx[index % len(influence.maps_BSyx)], influence.names)
            for influence in influences
            for index, picture_YX3 in enumerate(_pictures(images, influence))
        ]
        return io.NodeOutput(_stack(sheets))


def recorded(conditioning: list[list[Any]]) -> list[Influence]:
    """The influence in each entry of the conditioning that was sampled; reference 1 is the one applied first.

    Raises:
        ValueError: no entry has references, or none was sampled since the map was added.
    """
    marks = {id(mark): mark for _, options in conditioning if (mark := find_mark(options))}.values()
    if not marks:
        raise ValueError("The conditioning has no reference; connect the output of Apply Redux that was sampled.")
    results = [mark.recorder.result(mark.references[::-1]) for mark in marks]
    found = [result for result in results if result is not None]
    if not found:
        raise ValueError(
            "No attention was recorded for this conditioning; connect the one that goes into the sampler, and sample "
            "with this node in the graph and a model that uses ComfyUI's attention."
        )
    return found


def _pictures(images_BYX3: torch.Tensor, influence: Influence) -> torch.Tensor:
    sampled = len(influence.maps_BSyx)
    if len(images_BYX3) != sampled and sampled != 1:
        raise ValueError(f"There are {len(images_BYX3)} pictures, but {sampled} were sampled; connect all of them.")
    return images_BYX3[..., :3]


def _stack(sheets: list[torch.Tensor]) -> torch.Tensor:
    """Sheets of unequal sizes (entries with other numbers of references) side by side in one batch."""
    height, width = (max(sheet.shape[side] for sheet in sheets) for side in (0, 1))
    batch = sheets[0].new_zeros(len(sheets), height, width, 3)
    for row, sheet in zip(batch, sheets, strict=True):
        row[: sheet.shape[0], : sheet.shape[1]] = sheet
    return batch
