"""The presets that Apply Redux offers: those of the files that Calibrate Redux wrote."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import folder_paths

from ..redux.presets import Presets
from ..redux.schedule import BlockWeights
from ..redux.typed import short

FOLDER = "redux"  # below ComfyUI's output folder, as for saved references; its input folder is offered as well
NONE = "none"


def preset_choices() -> list[str]:
    """ "none", then e.g. "style: redux/flux1-dev_00001_.json [output]"."""
    found = [(name, file) for file in _files() for name in _names(file)]
    return [NONE, *(f"{name}: {file}" for name, file in found)]


def block_weights(preset: str, blocks: str = "") -> BlockWeights:
    """What a preset and the rules of a text say together; the text's rules win.

    Raises:
        ValueError: there is no such preset, its file is damaged, or a rule cannot be read.
    """
    given = BlockWeights.parse(blocks)
    if preset == NONE:
        return given
    if preset not in preset_choices():
        raise ValueError(
            f"There is no preset '{short(preset)}'; choose one of the list, or make one for your model with "
            "Calibrate Redux."
        )
    name, _, file = preset.partition(": ")
    weights = Presets.load(folder_paths.get_annotated_filepath(file)).block_weights(name)
    return BlockWeights((*weights.rules, *given.rules), weights.made_for)


def fingerprint(preset: str) -> str:
    """Changes when the file does."""
    _, _, file = preset.partition(": ")
    path = Path(folder_paths.get_annotated_filepath(file)) if file else None
    return str(path.stat().st_mtime_ns) if path is not None and path.is_file() else ""


def _files() -> list[str]:
    """Names as ComfyUI annotates them, e.g. "redux/flux1-dev_00001_.json [output]"."""
    output, given = Path(folder_paths.get_output_directory()), Path(folder_paths.get_input_directory())
    saved = [path for path in sorted((output / FOLDER).rglob("*.json")) if not path.name.startswith(".")]
    names = [f"{path.relative_to(output).as_posix()} [output]" for path in saved]
    return names + [f"{path.name} [input]" for path in sorted(given.glob("*.json"))]


def _names(file: str) -> tuple[str, ...]:
    path = Path(folder_paths.get_annotated_filepath(file))
    return _read_names(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read_names(path: Path, _modified: int) -> tuple[str, ...]:
    """None of a file that holds something else."""
    try:
        return tuple(Presets.load(path).tables)
    except (OSError, ValueError):
        return ()
