"""Calibrate Redux: measure which heads of the user's FLUX carry style, content and place, and write presets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..redux.calibration import Course, Progress, Settings
from ..redux.calibration.course import CONTENTS, STYLES
from ..redux.presets import Presets
from .host.flux import NATIVE_SIDE, SMALL_SIDE, native_side
from .host.model import HostedModel
from .host.outputs import output_target, say_prefix, write_numbered
from .host.paint import FluxPainter, Manner
from .host.report import show_on_node
from .presets import FOLDER
from .types import CATEGORY, ReduxModelType

SUFFIX = ".json"
PARTS = "redux-calibration"  # below the folder of ComfyUI's users: what a stopped calibration goes on with


class ReduxCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReduxCalibrate",
            display_name="Calibrate Redux",
            category=CATEGORY,
            description="Measures which heads of your FLUX carry a reference's style, its content and its place, and "
            "saves the presets style, composition and subject for Apply Redux. Once for each model; stopped, it goes "
            "on where it was.",
            search_aliases=["calibrate", "preset", "style only", "composition only", "head weights"],
            is_output_node=True,
            inputs=_inputs(),
            outputs=[
                io.String.Output(display_name="report", tooltip="What was found, as text; it stands in the file, too.")
            ],
        )

    @classmethod
    def validate_inputs(
        cls, contents: str | None = None, styles: str | None = None, filename_prefix: str | None = None
    ) -> bool | str:
        """Refuse before anything runs what needs no model to be known; a connected value is None here."""
        try:
            Settings(
                read_lines(contents) if isinstance(contents, str) else CONTENTS,
                read_lines(styles) if isinstance(styles, str) else STYLES,
            )
        except ValueError as error:
            return str(error)
        return say_prefix(filename_prefix)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        redux: HostedModel,
        contents: str = "\n".join(CONTENTS),
        styles: str = "\n".join(STYLES),
        minutes: float = 15.0,
        steps: int = 8,
        side: int = 0,
        guidance: float = 3.5,
        cases: int = 6,
        filename_prefix: str = f"{FOLDER}/presets",
    ) -> io.NodeOutput:
        settings = Settings(read_lines(contents), read_lines(styles), cases, minutes)
        output_target(filename_prefix)  # refuses one that came by wire before it is measured, not after
        small = native_side(model) == SMALL_SIDE
        manner = Manner(side or (SMALL_SIDE if small else NATIVE_SIDE // 2), steps, guidance)
        painter = FluxPainter(model, clip, vae, redux, manner)
        course = Course(painter, settings, Path(folder_paths.get_user_directory()) / PARTS, _Reporter())
        presets = course.run()
        path = write_numbered(filename_prefix, SUFFIX, presets.save)
        course.forget()
        show_on_node("")
        report = describe(presets, path)
        return io.NodeOutput(report, ui={"text": [report]})


class _Reporter:
    """Progress on the node, in the log and in ComfyUI's bar."""

    def __init__(self) -> None:
        self._bar: comfy.utils.ProgressBar | None = None
        self._said = 0

    def __call__(self, progress: Progress) -> None:
        self._bar = self._bar or comfy.utils.ProgressBar(progress.total)
        self._bar.update_absolute(progress.done, progress.total)
        if progress.seconds is None:
            return
        text = f"{progress.done} of {progress.total} pictures, about {duration(progress.seconds)} more"
        show_on_node(text)
        if progress.total != self._said:  # the estimate before the start, and again where the number changed
            self._said = progress.total
            logging.info("Redux: calibrating, %s", text)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def read_lines(text: str) -> tuple[str, ...]:
    """The lines that are not empty, each once."""
    return tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))


def describe(presets: Presets, path: Path) -> str:
    """What each preset kept in the pictures of the calibration."""
    found = presets.measured["presets"]
    lines = [f"{path.name}: presets for {presets.model.name}, {presets.measured['pictures']} pictures."]
    for name, values in found.items():
        kept = ", ".join(f"{part} {value:.0%}" for part, value in values.items() if part != "worth")
        lines.append(f"{name}: of the reference's way, {kept}.")
    return "\n".join(lines)


def _inputs() -> list[io.Input]:
    def words(name: str, default: tuple[str, ...], what: str) -> io.Input:
        return io.String.Input(
            name,
            optional=True,
            multiline=True,
            default="\n".join(default),
            tooltip=f"{what}, one a line, at least two. The model paints each content in each style.",
        )

    return [
        io.Model.Input("model", tooltip="The FLUX.1 to calibrate, as it is sampled later."),
        io.Clip.Input("clip", tooltip="Its text encoders."),
        io.Vae.Input("vae", tooltip="Its VAE."),
        ReduxModelType.Input("redux", tooltip="From Load Redux."),
        words("contents", CONTENTS, "Things that differ in content"),
        words("styles", STYLES, "Styles that the model knows"),
        io.Float.Input(
            "minutes",
            optional=True,
            default=15.0,
            min=0.1,
            max=1440.0,
            step=1.0,
            tooltip="About how long it may take; more time measures single heads more exactly.",
        ),
        io.Int.Input(
            "steps",
            optional=True,
            default=8,
            min=1,
            max=100,
            advanced=True,
            tooltip="Of the sampler, for each picture.",
        ),
        io.Int.Input(
            "side",
            optional=True,
            default=0,
            min=0,
            max=2048,
            step=64,
            advanced=True,
            tooltip="Pixels of the square pictures; 0 is half of what the model was trained on.",
        ),
        io.Float.Input(
            "guidance",
            optional=True,
            default=3.5,
            min=0.0,
            max=100.0,
            step=0.1,
            advanced=True,
            tooltip="As at FluxGuidance; schnell has none.",
        ),
        io.Int.Input(
            "cases",
            optional=True,
            default=6,
            min=1,
            max=64,
            advanced=True,
            tooltip="Pairs of a prompt and a reference by which heads and presets are judged.",
        ),
        io.String.Input(
            "filename_prefix",
            optional=True,
            default=f"{FOLDER}/presets",
            tooltip="Folder and name in ComfyUI's output folder; a number is added, and nothing is overwritten. "
            f"Apply Redux looks into {FOLDER}/.",
        ),
    ]
