"""What leaves the graph: latents of ComfyUI's device, places for files, metadata, and stops of the nodes behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import folder_paths
import torch
from comfy.cli_args import args
from comfy_execution.graph_utils import ExecutionBlocker

from ...redux.typed import short

FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f\ud800-\udfff]')  # the last are half pairs of surrogates
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LONGEST = 180


class Target(NamedTuple):
    """Where pictures go: `folder` exists, `number` is the first that seemed free, `subfolder` is as the page wants."""

    folder: Path
    stem: str
    number: int
    subfolder: str


def empty_latent(width: int, height: int, batch_size: int) -> dict[str, Any]:
    """LATENT of FLUX's 16 channels for a picture of `width` x `height` pixels."""
    device, dtype = comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    samples_BCHW = torch.zeros([batch_size, 16, height // 8, width // 8], device=device, dtype=dtype)
    return {"samples": samples_BCHW, "downscale_ratio_spacial": 8}


def output_target(prefix: str, width: int = 0, height: int = 0) -> Target:
    """Folder and number for `prefix`, counted as ComfyUI's own Save Image does.

    Raises:
        ValueError: the prefix leads out of the output folder, or has no name in it.
    """
    found = folder_paths.get_save_image_path(clean_prefix(prefix), folder_paths.get_output_directory(), width, height)
    folder, stem, number, subfolder, _ = found
    return Target(Path(folder), stem, number, subfolder)


def clean_prefix(prefix: str) -> str:
    """A prefix that is a good path on every system: characters that one of them forbids become underscores.

    Raises:
        ValueError: it leads out of the output folder, has no name in it, or is too long for a file name.
    """
    parts = prefix.replace("\\", "/").split("/")
    if prefix.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", prefix) or ".." in parts:
        raise ValueError(f"The prefix '{short(prefix)}' leads out of the output folder; use a name, or folder/name.")
    cleaned = [FORBIDDEN.sub("_", part).strip(" ").rstrip(".") for part in parts]
    cleaned = [f"_{part}" if DEVICES.fullmatch(part) else part for part in cleaned]
    if not cleaned[-1]:
        raise ValueError(f"The prefix '{short(prefix)}' has no name in it; use a name, or folder/name.")
    if any(len(part.encode()) > LONGEST for part in cleaned):
        raise ValueError(f"The prefix has a name of more than {LONGEST} bytes; use a shorter one.")
    return "/".join(part for part in cleaned if part)


def say_prefix(prefix: str | None) -> bool | str:
    """What a node's validate_inputs says of its prefix, before anything runs for a file that has no place; a connected
    one is None here, and of what is no text ComfyUI says so."""
    try:
        clean_prefix(prefix if isinstance(prefix, str) else "redux")
    except ValueError as error:
        return str(error)
    return True


def write_numbered(prefix: str, suffix: str, write: Callable[[Path], None]) -> Path:
    """Write stem_00001_suffix with the first free number; of two runs at once each gets its own.

    Args:
        write: makes a new file, and raises FileExistsError where there is one.
    """
    return write_next(output_target(prefix), suffix, write)[0]


def write_next(target: Target, suffix: str, write: Callable[[Path], None]) -> tuple[Path, int]:
    """The same where a prefix has led to, with numbers from the target's on; the file and its number."""
    number = target.number
    while True:
        path = target.folder / f"{target.stem}_{number:05}_{suffix}"
        try:
            write(path)
        except FileExistsError:
            number += 1
        else:
            return path, number


def metadata_wanted() -> bool:
    """False when ComfyUI was started with --disable-metadata."""
    return not args.disable_metadata


def blocked(message: str) -> ExecutionBlocker:
    """An output value that keeps the nodes behind it from running; the page shows the message."""
    return ExecutionBlocker(message)
