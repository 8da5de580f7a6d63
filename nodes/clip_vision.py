"""Reference from CLIP Vision: for graphs that already have ComfyUI's own loaders."""

from typing import Any

from comfy_api.latest import io

from .host.model import project_clip_vision
from .types import CATEGORY, ReduxTokensType


class ReduxFromClipVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxFromClipVision",
            display_name="Reference from CLIP Vision",
            category=CATEGORY,
            description="Makes a reference of what CLIP Vision Encode gives, so that a graph with ComfyUI's own "
            "loaders can be kept. The projector runs on the GPU.",
            search_aliases=["style model apply", "clip vision output", "redux"],
            inputs=[
                io.StyleModel.Input("style_model", tooltip="From Load Style Model: flux1-redux-dev.safetensors."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output", tooltip="From CLIP Vision Encode with SigLIP; crop none is what Redux knows."
                ),
            ],
            outputs=[ReduxTokensType.Output(display_name="tokens", tooltip="The reference, for Apply Redux.")],
        )

    @classmethod
    def execute(cls, style_model: Any, clip_vision_output: Any) -> io.NodeOutput:
        return io.NodeOutput(project_clip_vision(style_model, clip_vision_output))
