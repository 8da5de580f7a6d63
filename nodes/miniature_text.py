"""Load Miniature Text: the word table of the trained miniature, in place of FLUX's two text encoders."""

import folder_paths
from comfy_api.latest import io

from .host.words import load_words
from .types import CATEGORY


class ReduxMiniatureText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxMiniatureText",
            display_name="Load Miniature Text",
            category=CATEGORY,
            description="The text side of the miniature FLUX that comes with this pack: a table of words, "
            "used by the ordinary text nodes. For a real FLUX use DualCLIPLoader.",
            search_aliases=["redux miniature", "mini flux", "word table"],
            inputs=[
                io.Combo.Input(
                    "words_name",
                    display_name="words",
                    options=folder_paths.get_filename_list("text_encoders"),
                    tooltip="The word table in models/text_encoders, e.g. redux-mini-words.safetensors.",
                )
            ],
            outputs=[io.Clip.Output(tooltip="For the ordinary text encode nodes.")],
        )

    @classmethod
    def execute(cls, words_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_words(folder_paths.get_full_path_or_raise("text_encoders", words_name)))
