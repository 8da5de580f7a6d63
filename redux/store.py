"""Files that are made new, whole or not at all, never over another one; safetensors with facts in their metadata."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from . import __version__
from .identify import identify
from .tensor_files import TensorFiles

# By metadata key, for messages: the load nodes offer the same list of files.
SAVED = {"redux.tokens": "a saved reference", "redux.conditioning": "a saved conditioning"}


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to; what is there when the context is left well gets the name `path`, in one step.

    After an error nothing stays, and of a process that was killed at most a hidden file.

    Raises:
        FileExistsError: the file is there already.
        OSError: it cannot be written.
    """
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is a file; a folder is needed to save {path.name} in.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        if path.exists():
            raise FileExistsError
        yield partial
        _give_name(partial, path)
    except FileExistsError:
        raise FileExistsError(f"{path} is there already; choose another name, since nothing is overwritten.") from None
    finally:
        partial.unlink(missing_ok=True)


def _give_name(partial: Path, path: Path) -> None:
    """Raises FileExistsError where somebody else has the name."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links
        path.touch(exist_ok=False)  # of two processes, one fails here
        try:
            os.replace(partial, path)
        except OSError:
            path.unlink()
            raise


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], key: str, version: int, facts: Mapping[str, Any]
) -> None:
    """Write a new safetensors file with facts, JSON values, in the metadata key `key`.

    Raises:
        FileExistsError: the file is there already.
        OSError: it cannot be written.
    """
    path = Path(path)
    about = {"version": version, "writer": f"redux-control {__version__}", **facts}
    with new_file(path) as partial:
        # Cloned, since safetensors refuses tensors that share memory, as entries of one conditioning often do.
        own = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
        }
        try:
            save_file(own, partial, metadata={key: json.dumps(about)})
        except SafetensorError as error:  # wraps the operating system's, e.g. of a full disk
            raise OSError(f"{path} cannot be written: {error}.") from error


def read_facts(files: TensorFiles, key: str, version: int, needed: str) -> dict[str, Any]:
    """The JSON object in a metadata key.

    Raises:
        ValueError: a folder, a file without, or one of another format version.
    """
    if files.path.is_dir():  # of several files in it, one would be taken without a word
        raise ValueError(f"{files.path} is a folder; {needed} is needed.")
    try:
        facts = json.loads(files.metadata[key])
        found = facts["version"]
    except (KeyError, TypeError, ValueError):
        saved = next((name for other, name in SAVED.items() if other != key and other in files.metadata), None)
        raise ValueError(f"{files.path.name} is {saved or identify(files.shapes)}; {needed} is needed.") from None
    if found != version:
        raise ValueError(f"{files.path.name} has format version {found}; this pack reads version {version}.")
    return dict(facts)
