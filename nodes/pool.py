"""Pool Reference: fewer tokens, for speed or, without normalize, for less influence."""

from comfy_api.latest import io

from ..redux.tokens import ReduxTokens
from .types import CATEGORY, ReduxTokensType


class ReduxPool(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxPool",
            display_name="Pool Reference",
            category=CATEGORY,
            description="Averages the tokens of a reference to a smaller grid. With normalize on in Apply Redux this "
            "buys speed and keeps the influence; with it off, fewer tokens mean less influence.",
            search_aliases=["redux downsample", "downsampling factor", "fewer tokens"],
            inputs=[
                ReduxTokensType.Input("tokens", tooltip="From Encode Reference."),
                *(
                    io.Int.Input(name, default=9, min=1, max=64, tooltip=f"{name.capitalize()} of tokens to keep.")
                    for name in ("rows", "columns")
                ),
            ],
            outputs=[ReduxTokensType.Output(display_name="tokens", tooltip="The reference with fewer tokens.")],
        )

    @classmethod
    def execute(cls, tokens: ReduxTokens, rows: int, columns: int) -> io.NodeOutput:
        return io.NodeOutput(tokens.pool((rows, columns)))
