"""The reference pictures that the templates name, in ComfyUI's input folder, so that a template runs as it opens."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import folder_paths

REFERENCES = Path(__file__).resolve().parents[2] / "miniature" / "references"
EXAMPLES = {"redux_ghost.png": REFERENCES / "first.png", "redux_umbrella.png": REFERENCES / "second.png"}


def lay_out_examples() -> None:
    """Copy what is not there yet; a file of that name stays, and a folder that cannot be written is no error."""
    folder = Path(folder_paths.get_input_directory())
    for name, source in EXAMPLES.items():
        if (folder / name).exists():
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
        except OSError as error:
            logging.info("Redux Control: the example picture %s is not in the input folder: %s.", name, error)
