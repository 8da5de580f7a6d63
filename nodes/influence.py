"""Redux Influence Map: where each reference and the prompt acted."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..redux.heatmap import draw_influence
from ..redux.influence import Influence
from .host.conditioning import find_mark
from .host.preview import save_previews
from .host.prompt_graph import nodes_behind
from .host.report import note_on_node
from .image_file import check_pictures
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
            is_output_node=True,  # it shows the sheets itself
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The conditioning that was sampled, from Apply Redux."),
                io.Image.Input("images", tooltip="The pictures that were made with it, from VAE Decode."),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="A sheet for each picture: the picture, then a map for each reference and Kontext picture, "
                    "the text and the picture's own attention. The numbers are mean shares."
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning: list[list[Any]], images: torch.Tensor) -> io.NodeOutput:
        check_pictures(images.shape)
        influences = recorded(conditioning) or [Influence(torch.zeros(1, 0, 1, 1), ())]
        sheets = [
            draw_influence(picture_YX3, influence.maps_BSyx[index % len(influence.maps_BSyx)], influence.names)
            for influence in influences
            for index, picture_YX3 in enumerate(_pictures(images, influence))
        ]
        batch_BYX3 = _stack(sheets)
        return io.NodeOutput(batch_BYX3, ui=save_previews(batch_BYX3))


def recorded(conditioning: list[list[Any]]) -> list[Influence]:
    """The influence in each entry of the conditioning that was sampled; reference 1 is the one applied first.

    Nothing if no entry has a reference: at strength 0, with a region of zeros, or where Apply Redux is bypassed.

    Raises:
        ValueError: there are references, but none was sampled since the map was added.
    """
    marks = {id(mark): mark for _, options in conditioning if (mark := find_mark(options))}.values()
    sources = nodes_behind("images")
    results = [mark.influence(_place(mark.recorder.places, sources)) for mark in marks]
    found = [result for result in results if result is not None]
    if results and not found:
        raise ValueError(
            "No attention was recorded for this conditioning; connect the one that goes into the sampler, and sample "
            "with this node in the graph and a model that uses ComfyUI's attention."
        )
    return found


def _place(places: Sequence[str], sources: Sequence[str]) -> str | None:
    """Of the nodes that have sampled the conditioning the one from which the pictures come; None = the last."""
    found = next((node for node in sources if node in places), None)
    if found is None and len(places) > 1:
        note_on_node(
            f"{len(places)} samplers have used this conditioning, and as far as the graph tells the pictures come from "
            "none of them; the map is that of the last."
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
