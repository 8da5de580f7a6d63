"""Apply Redux: put a reference into a conditioning, and say how strongly, where and when it acts."""

from typing import Any

import torch
from comfy_api.latest import io

from ..redux.control import Reference, place_tokens
from ..redux.schedule import CURVES, BlockWeights, Schedule
from ..redux.tokens import ReduxTokens
from .host.conditioning import add_reference
from .host.graph import influence_wanted
from .types import CATEGORY, ReduxTokensType

BATCHES = ["joint", "per image"]


class ReduxApply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxApply",
            display_name="Apply Redux",
            category=CATEGORY,
            description="Puts a reference into a conditioning, beside the text. Strength, region and schedule act in "
            "attention, exactly. Chain several for several references.",
            search_aliases=["redux apply", "style model apply", "reference", "image prompt", "ip adapter flux"],
            inputs=_inputs(),
            outputs=[io.Conditioning.Output(tooltip="For any sampler of a FLUX.1 model.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> bool:
        # An influence map added to a finished graph needs the sampling once more, this time recorded.
        return influence_wanted()

    @classmethod
    def execute(
        cls,
        conditioning: list[list[Any]],
        tokens: ReduxTokens,
        strength: float = 1.0,
        normalize: bool = True,
        region: torch.Tensor | None = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        curve: str = "constant",
        batch: str = "joint",
        blocks: str = "",
    ) -> io.NodeOutput:
        placed_BND, pieces = place_tokens(tokens, batch, normalize)
        schedule = Schedule(start_percent, end_percent, curve)
        reference = Reference(pieces, strength, check_region(region), schedule, BlockWeights.parse(blocks))
        if strength == 0 or (reference.region_RYX is not None and not bool(reference.region_RYX.any())):
            return io.NodeOutput(conditioning)
        return io.NodeOutput(add_reference(conditioning, placed_BND, reference))


def check_region(region: torch.Tensor | None) -> torch.Tensor | None:
    """A MASK [B, H, W] or [H, W] as [B, H, W] in 0..1.

    Raises:
        ValueError: another shape, an empty mask, or values that are not finite.
    """
    if region is None:
        return None
    if region.ndim not in (2, 3) or region.numel() == 0 or not bool(torch.isfinite(region).all()):
        raise ValueError(f"The region has shape {tuple(region.shape)}; a finite mask [batch, height, width] is needed.")
    return region.reshape(-1, *region.shape[-2:]).cpu().clamp(0, 1)


def _inputs() -> list[io.Input]:
    """All but the first three are optional, so that a short API call stays valid when an input is added."""
    return [
        io.Conditioning.Input("conditioning", tooltip="From a text encoder, or from another Apply Redux."),
        ReduxTokensType.Input("tokens", tooltip="From Encode Reference."),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Weight of the reference in attention. 0 is exactly the picture without it, 1 plain Redux; "
            "prompts begin to win between 0.05 and 0.5.",
        ),
        io.Boolean.Input(
            "normalize",
            optional=True,
            default=True,
            tooltip="Let a masked, pooled or tiled reference count as much as a whole one. "
            "Off, fewer tokens mean less influence.",
        ),
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="Where in the output the reference acts; grey acts partly. Stretched over the picture.",
        ),
        *_percents(),
        io.Combo.Input(
            "curve",
            optional=True,
            options=list(CURVES),
            default="constant",
            tooltip="How the strength runs from start_percent to end_percent.",
        ),
        *_advanced(),
    ]


def _advanced() -> list[io.Input]:
    return [
        io.Combo.Input(
            "batch",
            optional=True,
            options=BATCHES,
            default="joint",
            advanced=True,
            tooltip="Several pictures in one reference. joint: every image reads all of them. "
            "per image: picture 1 is for image 1 of the batch, and so on.",
        ),
        io.String.Input(
            "blocks",
            optional=True,
            default="",
            advanced=True,
            tooltip="Factors of the strength in single blocks of FLUX, e.g. double:0-9=0.5, single:=0.8. "
            "Blocks: double 0-18, single 0-37.",
        ),
    ]


def _percents() -> list[io.Input]:
    return [
        io.Float.Input(
            name,
            optional=True,
            default=default,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=f"When the reference {verb} to act: 0 is the first step, 1 the last. "
            "Outside its time it costs nothing.",
        )
        for name, default, verb in (("start_percent", 0.0, "begins"), ("end_percent", 1.0, "ceases"))
    ]
