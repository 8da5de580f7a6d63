"""Redux Sweep: each image of a batch with its own strength or end; and the sheet that shows them side by side."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..redux.reference import Reference
from ..redux.schedule import Schedule
from ..redux.sweep import MAX_VALUES, draw_sheet, parse_values
from ..redux.tokens import ReduxTokens
from ..redux.typed import short
from .acting import MAX_STRENGTH, SLIDER, are_numbers, are_texts, check_strength, optional_inputs, put_in
from .host.latent import repeat_latent
from .host.prompt_graph import influence_wanted
from .image_file import check_pictures
from .presets import NONE, block_weights, fingerprint
from .types import CATEGORY, ReduxTokensType

STRENGTH, END = SWEPT = ("strength", "end_percent")


class ReduxSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxSweep",
            display_name="Redux Sweep",
            category=CATEGORY,
            description="Apply Redux with one strength, or one end, for each image of a batch: all of them from one "
            "sampling with one noise, each exactly as it would be alone.",
            search_aliases=["sweep", "compare", "grid", "xy plot", "batch", "several strengths", "end percent"],
            inputs=_inputs(),
            outputs=[
                io.Conditioning.Output(tooltip="For the sampler that gets this node's latent."),
                io.Latent.Output(tooltip="The latent once for each value, all with the same noise."),
                io.String.Output(
                    display_name="labels", tooltip="A line for each image, e.g. strength 0.3, for Redux Sweep Sheet."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, preset: str = NONE, **_: Any) -> tuple[bool, str]:
        return influence_wanted(), fingerprint(preset)  # as Apply Redux

    @classmethod
    def validate_inputs(
        cls,
        values: str | None = None,
        what: str | None = None,
        strength: float | None = 1.0,
        start_percent: float | None = 0.0,
        end_percent: float | None = 1.0,
        blocks: str | None = "",
        preset: str | None = NONE,
    ) -> bool | str:
        """Refuse before anything runs what needs no tensors to be known; a connected value is None here."""
        if not are_numbers(strength, start_percent, end_percent) or not are_texts(values, blocks):
            return True
        try:
            check_strength(strength)
            block_weights(NONE if preset is None else preset, blocks or "")
            if what is not None:  # named here, it is not compared with its list by ComfyUI
                check_swept(what)
            if what is not None and values is not None:
                read_values(values, what, start_percent or 0.0)
            if what == STRENGTH and start_percent is not None and end_percent is not None:
                Schedule(start_percent, end_percent)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        conditioning: list[list[Any]],
        tokens: ReduxTokens,
        latent: dict[str, Any],
        values: str = "0.2, 0.4, 0.45, 0.5, 0.6, 1",
        what: str = STRENGTH,
        strength: float = 1.0,
        normalize: bool = True,
        region: torch.Tensor | None = None,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        curve: str = "constant",
        batch: str = "joint",
        blocks: str = "",
        response: str = "even",
        preset: str = NONE,
    ) -> io.NodeOutput:
        numbers = read_values(values, what, start_percent)
        images = len(latent["samples"])
        each = tuple(number for number in numbers for _ in range(images))
        acting = Reference(
            (),
            strength,
            None,
            Schedule(start_percent, max(numbers) if what == END else end_percent, curve),
            block_weights(preset, blocks),
            response=response,
            strengths=each if what == STRENGTH else (),
            ends=each if what == END else (),
        )
        labels = "\n".join(f"{what} {number:g}" for number in each)
        if any(acting.strengths or (strength,)):
            conditioning = put_in(conditioning, tokens, region, acting, batch, normalize)
        return io.NodeOutput(conditioning, repeat_latent(latent, len(numbers)), labels)


class ReduxSweepSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxSweepSheet",
            display_name="Redux Sweep Sheet",
            category=CATEGORY,
            description="Pictures with their labels on one sheet, shown on the node: what Redux Sweep made, "
            "side by side.",
            search_aliases=["contact sheet", "sweep sheet", "grid", "labels", "compare"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="All pictures of the sweep, from VAE Decode."),
                io.String.Input(
                    "labels",
                    optional=True,
                    multiline=True,
                    default="",
                    tooltip="A line for each picture, from Redux Sweep. Empty: numbers from 1.",
                ),
                io.Int.Input(
                    "columns",
                    optional=True,
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures in a row; 0 chooses a number that fits.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The sheet, as it is shown on the node.")],
        )

    @classmethod
    def execute(cls, images: torch.Tensor, labels: str = "", columns: int = 0) -> io.NodeOutput:
        check_pictures(images.shape)
        lines = [line.strip() for line in labels.splitlines() if line.strip()]
        sheet_YX3 = draw_sheet(images, lines or [str(number) for number in range(1, len(images) + 1)], columns)
        return io.NodeOutput(sheet_YX3[None], ui=ui.PreviewImage(sheet_YX3[None], cls=cls))


def check_swept(what: str) -> None:
    """Raises ValueError: this is nothing that can be swept."""
    if what not in SWEPT:
        raise ValueError(f"A sweep of '{short(what)}' is not known; choose {' or '.join(SWEPT)} as what.")


def read_values(text: str, what: str, start: float = 0.0) -> tuple[float, ...]:
    """The numbers of a sweep.

    Raises:
        ValueError: they cannot be read, or one of them is no strength, or no end after `start`; or `what` is neither.
    """
    check_swept(what)
    numbers = parse_values(text)
    for number in numbers:
        if what == STRENGTH and not 0 <= number <= MAX_STRENGTH:
            raise ValueError(f"The sweep has the strength {number:.10g}; 0 to {MAX_STRENGTH:g} is needed.")
        if what == END:
            Schedule(start, number)
    return numbers


def _inputs() -> list[io.Input]:
    return [
        io.Conditioning.Input("conditioning", tooltip="From a text encoder, or from an Apply Redux."),
        ReduxTokensType.Input("tokens", tooltip="From Encode Reference."),
        io.Latent.Input("latent", tooltip="The size, or the picture to begin with. It is repeated for each value."),
        io.String.Input(
            "values",
            default="0.2, 0.4, 0.45, 0.5, 0.6, 1",
            tooltip=f"1 to {MAX_VALUES} numbers: strengths, 0 or more, or ends, above start_percent up to 1.",
        ),
        io.Combo.Input(
            "what",
            optional=True,
            options=list(SWEPT),
            default=STRENGTH,
            tooltip="What the values are: the strength, or when the reference ceases to act.",
        ),
        io.Float.Input(
            "strength",
            optional=True,
            default=1.0,
            min=0.0,
            max=2.0,
            **SLIDER,
            tooltip="Of all images, while the values are ends. Otherwise the values count.",
        ),
        *optional_inputs(),
    ]
