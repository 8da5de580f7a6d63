"""Apply Redux: put a reference into a conditioning, and say how strongly, where and when it acts."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.reference import Reference
from ..redux.schedule import Schedule
from ..redux.tokens import ReduxTokens
from .acting import SLIDER, are_numbers, are_texts, check_strength, optional_inputs, put_in
from .host.prompt_graph import influence_wanted
from .presets import NONE, block_weights, fingerprint
from .types import CATEGORY, ReduxTokensType


class ReduxApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxApply",
            display_name="Apply Redux",
            category=CATEGORY,
            description="Puts a reference into a conditioning, beside the text. Strength, region and schedule act in "
            "attention, exactly. Chain several for several references.",
            search_aliases=[
                *(
                    "redux apply",
                    "style model apply",
                    "reference",
                    "image prompt",
                    "ip adapter flux",
                    "style",
                    "strength",
                ),
                *("regional", "region", "weight", "style transfer", "attention", "variation"),
            ],
            inputs=_inputs(),
            outputs=[io.Conditioning.Output(tooltip="For any sampler of a FLUX.1 model.")],
        )

    @classmethod
    def fingerprint_inputs(cls, preset: str = NONE, **_: Any) -> tuple[bool, str]:
        # An influence map added to a finished graph needs the sampling once more, this time recorded.
        return influence_wanted(), fingerprint(preset)

    @classmethod
    def validate_inputs(
        cls,
        strength: float | None = 1.0,
        start_percent: float | None = 0.0,
        end_percent: float | None = 1.0,
        blocks: str | None = "",
        preset: str | None = NONE,
    ) -> bool | str:
        """Refuse before anything runs what needs no tensors to be known; a connected value is None here."""
        if not are_numbers(strength, start_percent, end_percent) or not are_texts(blocks):
            return True
        try:
            check_strength(strength)
            start, end = 0.0 if start_percent is None else start_percent, 1.0 if end_percent is None else end_percent
            if start_percent is not None or end_percent is not None:
                Schedule(start, end)
            block_weights(NONE if preset is None else preset, blocks or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def check_lazy_status(
        cls, strength: float | None = None, tokens: ReduxTokens | None = None, **inputs: Any
    ) -> list[str]:
        """Strength 0 needs neither tokens nor region, so nothing that makes them is run."""
        if strength == 0:
            return []
        return ["tokens"] * (tokens is None) + ["region"] * ("region" in inputs and inputs["region"] is None)

    @classmethod
    def execute(
        cls,
        conditioning: list[list[Any]],
        tokens: ReduxTokens | None = None,
        strength: float = 1.0,
        normalize: bool = True,
        region: torch.Tensor | None = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        curve: str = "constant",
        batch: str = "joint",
        blocks: str = "",
        # Graphs of before there was a choice name none and mean a weight; new ones begin with the schema's default.
        response: str = "weight",
        preset: str = NONE,
    ) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(conditioning)
        if tokens is None:
            raise ValueError("There is no reference; connect Encode Reference to tokens.")
        schedule, factors = Schedule(start_percent, end_percent, curve), block_weights(preset, blocks)
        acting = Reference((), strength, None, schedule, factors, response=response)
        return io.NodeOutput(put_in(conditioning, tokens, region, acting, batch, normalize))


def _inputs() -> list[io.Input]:
    """All but the first three are optional, so that a short API call stays valid when an input is added."""
    return [
        io.Conditioning.Input("conditioning", tooltip="From a text encoder, or from another Apply Redux."),
        ReduxTokensType.Input("tokens", lazy=True, tooltip="From Encode Reference."),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=2.0,
            **SLIDER,
            tooltip="0 is exactly the picture without the reference, 1 plain Redux; between them it moves evenly, and "
            "the prompt begins to win below 0.5. Above 1 the reference gains little. See response.",
        ),
        *optional_inputs(lazy=True),
    ]
