"""What Apply Redux and Redux Sweep share: inputs that say how a reference acts, and how it gets into a conditioning."""

import logging
from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ..redux.pictures import to_unit
from ..redux.reference import RESPONSES, Reference, place_tokens
from ..redux.schedule import CURVES
from ..redux.tokens import ReduxTokens
from .host.conditioning import add_reference
from .host.mask import read_mask
from .host.prompt_graph import text_only_readers
from .host.report import show_on_node
from .presets import NONE, preset_choices

BATCHES = ["joint", "per image"]
MAX_STRENGTH = 10.0  # the slider ends at 2, where it still has fine steps; more can come from a wire or the API
# How sliders move. The page cuts what is typed to the digits of the step, so that three need a step below 0.01.
SLIDER: dict[str, Any] = {"step": 0.005, "round": 0.001, "display_mode": io.NumberDisplay.slider}


def put_in(
    conditioning: list[list[Any]],
    tokens: ReduxTokens,
    region: torch.Tensor | None,
    acting: Reference,
    batch: str,
    normalize: bool,
) -> list[list[Any]]:
    """The conditioning with the reference, which acts as `acting`, a Reference without parts and region, says."""
    _say_where_it_is_left_out()
    for picture, mask in _pairs(tokens, check_region(read_mask(region, "region")), batch):
        placed_BND, parts = place_tokens(picture, batch, normalize)
        if mask is None or bool(mask.any()):
            reference = replace(acting, parts=parts, region_RYX=mask)
            conditioning = add_reference(conditioning, placed_BND, reference)
    return conditioning


def _pairs(
    tokens: ReduxTokens, region_BYX: torch.Tensor | None, batch: str
) -> list[tuple[ReduxTokens, torch.Tensor | None]]:
    """What is applied: the whole reference, or, joint and with a mask for each of several pictures, each by itself."""
    count = tokens.num_pictures
    if region_BYX is None or batch != "joint" or count == 1 or len(region_BYX) != count:
        return [(tokens, region_BYX)]
    covers = [None] * count if tokens.coverage is None else tokens.coverage.split(1)
    rows = zip(tokens.tokens.split(1), covers, region_BYX.split(1), strict=True)
    return [(replace(tokens, tokens=row_1ND, coverage=cover), mask_1YX) for row_1ND, cover, mask_1YX in rows]


def _say_where_it_is_left_out() -> None:
    readers = text_only_readers()
    if readers:
        text = (
            f"{' and '.join(readers)} reads only the text of conditioning_from, so this reference does not act there; "
            "put Apply Redux behind it."
        )
        logging.warning("Redux: %s", text)
        show_on_node(text)


def check_strength(strength: float | None) -> None:
    """Raises ValueError where a strength, None for a connected one, is outside of what a reference can have."""
    if strength is not None and not 0 <= strength <= MAX_STRENGTH:
        raise ValueError(f"The strength is {strength:.10g}; 0 to {MAX_STRENGTH:g} is needed.")


def are_numbers(*values: Any) -> bool:
    """Whether all are numbers or come by wire (None). ComfyUI checks a prompt that holds none as well, and names it."""
    return all(value is None or isinstance(value, (int, float)) for value in values)


def are_texts(*values: Any) -> bool:
    """The same for texts; of a list in the place of one ComfyUI says that it is no link."""
    return all(value is None or isinstance(value, str) for value in values)


def check_region(region: torch.Tensor | None) -> torch.Tensor | None:
    """A MASK [B, H, W], [B, 1, H, W] or [H, W] as [B, H, W] in 0..1.

    Raises:
        ValueError: another shape, an empty mask, or values that no mask has.
    """
    if region is None:
        return None
    if region.ndim == 4 and region.shape[1] == 1:
        region = region[:, 0]
    if region.ndim not in (2, 3) or region.numel() == 0:
        raise ValueError(f"The region has shape {tuple(region.shape)}; a mask [batch, height, width] is needed.")
    return to_unit(region.reshape(-1, *region.shape[-2:]).cpu(), "region")


def optional_inputs(lazy: bool = False) -> list[io.Input]:
    """How a reference acts besides its strength.

    Args:
        lazy: the node has a check_lazy_status, without which ComfyUI never asks for a lazy input.
    """
    return [
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
            lazy=lazy,
            tooltip="Where in the output the reference acts; grey acts partly. Stretched over the picture. "
            "As many masks as pictures, joint: each for its picture.",
        ),
        *schedule_inputs("reference", " Outside its time it costs nothing."),
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
            tooltip="Factors of the strength in single blocks of FLUX, e.g. double:0-9=0.5, single:=0.8, or in heads, "
            "e.g. double:3.h0-5=0. Blocks: double 0-18, single 0-37; heads 0-23.",
        ),
        io.Combo.Input(
            "response",
            optional=True,
            options=list(RESPONSES),
            default="even",
            tooltip="What the strength does. even: a half is about half of the way to plain Redux. weight: a factor in "
            "attention, as ComfyUI's attn_bias, of which 0.1 is over a third of the way. Older graphs mean weight.",
        ),
        io.Combo.Input(
            "preset",
            optional=True,
            options=preset_choices(),
            default=NONE,
            advanced=True,
            tooltip="What of the reference acts: its style, its composition or its subject. Made for your model by "
            "Calibrate Redux; another model is refused.",
        ),
    ]


def schedule_inputs(who: str, outside: str = "") -> list[io.Input]:
    """When a reference or a picture (`who`) acts, and how its strength runs meanwhile."""
    percents: list[io.Input] = [
        io.Float.Input(
            name,
            optional=True,
            default=default,
            min=0.0,
            max=1.0,
            **SLIDER,
            tooltip=f"When the {who} {verb} to act: 0 is the first step, 1 the last.{outside}",
        )
        for name, default, verb in (("start_percent", 0.0, "begins"), ("end_percent", 1.0, "ceases"))
    ]
    curve = io.Combo.Input(
        "curve",
        optional=True,
        options=list(CURVES),
        default="constant",
        tooltip="How the strength runs from start_percent to end_percent.",
    )
    return [*percents, curve]
