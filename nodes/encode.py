"""Encode Reference: pictures to tokens."""

from dataclasses import replace
from typing import Any

import torch
from comfy_api.latest import io

from ..redux.image import FITS, POSITIONS
from ..redux.preview import draw_views, outline
from ..redux.tokens import ReduxTokens
from ..redux.typed import short
from .host.mask import read_mask
from .host.model import HostedModel
from .host.preview import begin_previews
from .host.prompt_graph import given_in_prompt
from .host.report import note_on_node
from .types import CATEGORY, ReduxModelType, ReduxTokensType

MAX_TILES = 4
DEFAULTS: dict[str, dict[str, Any]] = {
    "crop": {"position": "center"},
    "tiles": {"rows": 2, "columns": 2, "token_budget": 1458},
}
SEVERAL = 4  # pictures that somebody may have meant; a film's frames are more
# Of the preview, which is drawn in every run, for an API's requests as well.
MAX_DRAWN = 8
MAX_SIDE = 768


class ReduxEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxEncode",
            display_name="Encode Reference",
            category=CATEGORY,
            description="Reads reference pictures with the vision tower and turns them into tokens for FLUX. "
            "The preview shows what the tower sees, of the first eight pictures; what it does not read is red.",
            search_aliases=[
                *("redux encode", "clip vision encode", "reference image", "image prompt", "similar", "mask", "siglip"),
            ],
            inputs=[
                ReduxModelType.Input("redux", tooltip="From Load Redux."),
                io.Image.Input("image", tooltip="One or several reference pictures. Alpha says what is to be read."),
                _fit_input(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White where the reference is to be read. Load Image gives the inverse for transparency.",
                ),
                io.Boolean.Input(
                    "crop_to_mask",
                    optional=True,
                    default=False,
                    advanced=True,
                    tooltip="Cut the picture around the mask (or alpha) first, so that a small thing is seen large.",
                ),
                io.Float.Input(
                    "margin",
                    optional=True,
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Room around the mask when cropping to it, as a share of its longer side.",
                ),
            ],
            outputs=[ReduxTokensType.Output(display_name="tokens", tooltip="The reference, for Apply Redux.")],
        )

    @classmethod
    def validate_inputs(cls, fit: dict[str, Any] | str | None = None) -> bool | str:
        try:
            _read_fit(fit)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        redux: HostedModel,
        image: torch.Tensor,
        fit: dict[str, Any] | str | None = None,
        mask: torch.Tensor | None = None,
        crop_to_mask: bool = False,
        margin: float = 0.1,
    ) -> io.NodeOutput:
        kind, options = _read_fit(given_in_prompt("fit") if fit is None else fit)
        mask = read_mask(mask, "mask")
        budget = options.pop("token_budget", None)
        device, room = redux.patcher.load_device, margin if crop_to_mask else None
        views = redux.model.views(image, fit=kind, mask=mask, margin=room, device=device, **options)
        about = {"fit": kind, **options, "size": list(image.shape[1:3])}
        empty = outline(views, redux.model.config.num_tokens)
        if budget is not None:
            empty = empty.pool_to(budget)
        columns = options.get("tiles", (0, 0))[1] or None
        drawn = range(min(empty.num_pictures, MAX_DRAWN))
        pictures = [draw_views(views, empty, index, columns, MAX_SIDE) for index in drawn]
        previews = begin_previews(pictures)  # files are written while the tower computes
        tokens = replace(redux.encode(views), about=about)
        if budget is not None:
            tokens = tokens.pool_to(budget)
        _say_how_many(tokens)
        return io.NodeOutput(tokens, ui=previews())


def _read_fit(fit: dict[str, Any] | str | None) -> tuple[str, dict[str, Any]]:
    """The fit's name and the options that `ReduxModel.views` takes, and the token budget of tiles.

    Args:
        fit: as ComfyUI hands it over, with None for settings that a prompt leaves out, or the name alone.
    """
    given = dict(fit or {}) if isinstance(fit, dict) or fit is None else {"fit": fit}
    kind = given.pop("fit", None)
    if not isinstance(kind, str) or kind not in FITS:
        found = "is missing" if kind is None else f"'{short(kind)}' is unknown"
        raise ValueError(f"The fit {found}; choose one of {', '.join(FITS)}.")
    options = DEFAULTS.get(kind, {}) | {name: value for name, value in given.items() if value is not None}
    if kind == "tiles":
        options["tiles"] = (options.pop("rows"), options.pop("columns"))
    return kind, options


def _say_how_many(tokens: ReduxTokens) -> None:
    """A GIF comes as all of its frames, each of which makes every step slower."""
    if tokens.num_pictures > SEVERAL:
        count = tokens.tokens.shape[0] * tokens.tokens.shape[1]
        note_on_node(
            f"{tokens.num_pictures} pictures are read as one reference of {count:,} tokens; choose per image as batch "
            "of Apply Redux, or pick one frame with Get Image from Batch."
        )


def _fit_input() -> io.Input:
    """How a picture meets the tower's square; each fit brings its own settings, which a prompt may leave out."""
    position = io.Combo.Input(
        "position",
        optional=True,
        options=list(POSITIONS),
        default=DEFAULTS["crop"]["position"],
        tooltip="Which part of the picture the largest square is cut from.",
    )
    sides = [
        io.Int.Input(
            name,
            optional=True,
            default=DEFAULTS["tiles"][name],
            min=1,
            max=MAX_TILES,
            tooltip=f"{name.capitalize()} of tiles.",
        )
        for name in ("rows", "columns")
    ]
    budget = io.Int.Input(
        "token_budget",
        optional=True,
        default=DEFAULTS["tiles"]["token_budget"],
        min=25,
        max=16384,
        tooltip="The views are averaged to fewer tokens until a picture has at most so many. "
        "A whole reference has 729; more tokens make each step slower.",
    )
    return io.DynamicCombo.Input(
        "fit",
        tooltip="How the picture meets the square that the tower reads. stretch is what Redux was trained on; crop "
        "cuts a square; pad adds borders that are not read; native keeps the aspect; tiles reads details.",
        options=[
            io.DynamicCombo.Option("stretch", []),
            io.DynamicCombo.Option("crop", [position]),
            io.DynamicCombo.Option("pad", []),
            io.DynamicCombo.Option("native", []),
            io.DynamicCombo.Option("tiles", [*sides, budget]),
        ],
    )
