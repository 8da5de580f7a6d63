"""Weigh Reference Latents: how strongly, where and when Kontext's reference pictures act."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.reference import RESPONSES, Reference
from ..redux.schedule import Schedule
from .acting import SLIDER, are_numbers, check_region, check_strength, schedule_inputs
from .host.conditioning import weigh_pictures
from .host.mask import read_mask
from .host.prompt_graph import influence_wanted
from .types import CATEGORY

MAX_PICTURES = 64


class ReduxWeighLatents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxWeighLatents",
            display_name="Weigh Reference Latents",
            category=CATEGORY,
            description="Gives the pictures of FLUX.1 Kontext a strength, a region and a schedule, which act in "
            "attention, exactly. Put it behind Set Reference Latent.",
            search_aliases=[
                *("kontext strength", "kontext", "reference latent", "reference latent strength", "edit strength"),
                *("regional", "weight", "multiple references"),
            ],
            inputs=_inputs(),
            outputs=[io.Conditioning.Output(tooltip="For Apply Redux or the sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> bool:
        return influence_wanted()  # as for Apply Redux

    @classmethod
    def validate_inputs(
        cls, strength: float | None = 1.0, start_percent: float | None = 0.0, end_percent: float | None = 1.0
    ) -> bool | str:
        """Refuse before anything runs what needs no tensors to be known; a connected value is None here."""
        if not are_numbers(strength, start_percent, end_percent):
            return True
        try:
            check_strength(strength)
            Schedule(start_percent or 0.0, 1.0 if end_percent is None else end_percent)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        conditioning: list[list[Any]],
        picture: int = 0,
        strength: float = 1.0,
        region: torch.Tensor | None = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        curve: str = "constant",
        response: str = "even",
    ) -> io.NodeOutput:
        schedule = Schedule(start_percent, end_percent, curve)
        reference = Reference(
            (), strength, check_region(read_mask(region, "region")), schedule, response=response, picture=picture
        )
        return io.NodeOutput(weigh_pictures(conditioning, reference))


def _inputs() -> list[io.Input]:
    return [
        io.Conditioning.Input("conditioning", tooltip="From Set Reference Latent, perhaps through other nodes."),
        io.Int.Input(
            "picture",
            default=0,
            min=0,
            max=MAX_PICTURES,
            tooltip="Which reference latent: 1 is the one that was set first; 0 means all. "
            "Chain the node for several; for each picture the last one that means it counts.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=2.0,
            **SLIDER,
            tooltip="0: nothing reads the picture. 1: as without this node. Between them it moves evenly.",
        ),
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="Where in the output the picture is read; grey acts partly. Stretched over the output.",
        ),
        *schedule_inputs("picture"),
        io.Combo.Input(
            "response",
            optional=True,
            options=list(RESPONSES),
            default="even",
            advanced=True,
            tooltip="What the strength is. even: the part of its natural attention that the picture keeps. "
            "weight: a factor of what its tokens count in attention.",
        ),
    ]
