"""Mix References: several references as one."""

import re
from typing import Any

from comfy_api.latest import io

from ..redux.mix import METHODS, mix
from ..redux.tokens import ReduxTokens
from ..redux.typed import read_number, short
from .types import CATEGORY, ReduxTokensType

MAX_REFERENCES = 16


class ReduxMix(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxMix",
            display_name="Mix References",
            category=CATEGORY,
            description="Makes one reference of several. join lets FLUX read all of them; the other methods make one "
            "token of the tokens at each place.",
            search_aliases=["redux combine", "average references", "merge references", "blend"],
            inputs=[
                io.Autogrow.Input(
                    "tokens",
                    template=io.Autogrow.TemplatePrefix(
                        ReduxTokensType.Input("reference", tooltip="From Encode Reference; a new socket appears."),
                        prefix="reference_",
                        min=2,
                        max=MAX_REFERENCES,
                    ),
                    tooltip="The references, in order.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="join",
                    tooltip="join: side by side. average, norm average, slerp: between them. add, subtract (the first "
                    "minus the others), max: number by number.",
                ),
                io.String.Input(
                    "weights",
                    optional=True,
                    default="",
                    tooltip="One number for each reference, e.g. 1, 0.5. Empty: 1 each.",
                ),
            ],
            outputs=[ReduxTokensType.Output(display_name="tokens", tooltip="One reference.")],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = "", tokens: Any = None) -> bool | str:
        try:
            read_weights(weights if isinstance(weights, str) else "")  # of a list ComfyUI says that it is no link
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, tokens: dict[str, ReduxTokens], method: str, weights: str = "") -> io.NodeOutput:
        return io.NodeOutput(mix(list(tokens.values()), method, read_weights(weights)))


def read_weights(text: str) -> list[float] | None:
    """Numbers separated by commas, semicolons or spaces; None when there are none.

    Raises:
        ValueError: something that is not a number.
    """
    parts = [part for part in re.split(r"[\s,;]+", text) if part]
    try:
        return [read_number(part) for part in parts] or None
    except ValueError:
        raise ValueError(f"The weights '{short(text)}' cannot be read; write numbers, e.g. 1, 0.5.") from None
