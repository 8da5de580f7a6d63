"""Keep References: their keys and values from earlier steps, so that references cost little."""

from typing import Any

from comfy_api.latest import io

from ..redux.keeping import QUALITIES, Quality
from .host.conditioning import keep_references
from .types import CATEGORY


class ReduxKeep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxKeep",
            display_name="Keep References",
            category=CATEGORY,
            description="Makes references cheap: FLUX reads them anew in a few steps only, and remembers in the others "
            "what it read. Put it between the last Apply Redux and the sampler.",
            search_aliases=["speed", "faster", "cache", "keep reference", "kv cache"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From Apply Redux; all its references are kept."),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default="close",
                    tooltip="exact: every step reads the references, as without this node. close: steps 1, 2, 3, 5, 9, "
                    "17 ... do. fast: steps 1, 2, 5, 14 ... do. automatic: when the picture has moved far enough.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For the sampler.")],
        )

    @classmethod
    def execute(cls, conditioning: list[list[Any]], quality: Quality = "close") -> io.NodeOutput:
        return io.NodeOutput(keep_references(conditioning, quality))
