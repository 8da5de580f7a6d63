"""Load Redux: vision tower and projector from the files that ComfyUI already knows."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from .host.installed import AUTOMATIC, choose_file
from .host.model import DTYPES, load_model
from .types import CATEGORY, ReduxModelType


class ReduxLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxLoader",
            display_name="Load Redux",
            category=CATEGORY,
            description="Loads the SigLIP vision tower and the Redux projector. ComfyUI manages their memory.",
            search_aliases=[
                "redux",
                "redux loader",
                "style model",
                "siglip",
                "clip vision",
                "flux reference",
                "image prompt",
            ],
            inputs=[
                io.Combo.Input(
                    "vision_name",
                    display_name="vision tower",
                    options=[AUTOMATIC, *folder_paths.get_filename_list("clip_vision")],
                    default=AUTOMATIC,
                    tooltip="SigLIP so400m in models/clip_vision, e.g. sigclip_vision_patch14_384.safetensors. "
                    "automatic takes what is installed.",
                ),
                io.Combo.Input(
                    "redux_name",
                    display_name="projector",
                    options=[AUTOMATIC, *folder_paths.get_filename_list("style_models")],
                    default=AUTOMATIC,
                    tooltip="The Redux projector in models/style_models, e.g. flux1-redux-dev.safetensors. "
                    "automatic takes what is installed.",
                ),
                io.Combo.Input(
                    "dtype",
                    optional=True,
                    options=list(DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="How the weights are kept in memory. default: what ComfyUI uses for text encoders. "
                    "fp8 halves the memory and costs some fidelity.",
                ),
            ],
            outputs=[
                ReduxModelType.Output(display_name="redux", tooltip="Vision tower and projector for Encode Reference.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, vision_name: str, redux_name: str, **_: Any) -> list[str]:
        """A file that is installed later is taken on the next run."""
        return resolve(vision_name, redux_name)

    @classmethod
    def execute(cls, vision_name: str, redux_name: str, dtype: str = "default") -> io.NodeOutput:
        vision_name, redux_name = resolve(vision_name, redux_name)
        vision_path = folder_paths.get_full_path_or_raise("clip_vision", vision_name)
        redux_path = folder_paths.get_full_path_or_raise("style_models", redux_name)
        return io.NodeOutput(load_model(vision_path, redux_path, dtype))


def resolve(vision_name: str, redux_name: str) -> list[str]:
    """Both names with "automatic" replaced by a file.

    Raises:
        FileNotFoundError: the file is missing.
    """
    given = {"vision": vision_name, "projector": redux_name}
    return [choose_file(role, given) if name == AUTOMATIC else name for role, name in given.items()]
