"""References on disk, as safetensors: tokens need no vision tower to be used again.

A file has the tensors `tokens` [B, N, D] and, with a mask, `coverage` [B, N]; the metadata key `redux.tokens` holds a
JSON object with the format's version, the writer's version, the parts, the name of the encoder, and what is known of
the source (fit, size of the picture, what was mixed).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from . import __version__
from .files import TensorFiles, open_files
from .identify import identify
from .tokens import Part, ReduxTokens

METADATA_KEY = "redux.tokens"
VERSION = 1


def save_tokens(tokens: ReduxTokens, path: str | Path) -> None:
    """Write a reference to a new file.

    Raises:
        FileExistsError: the file is there already; nothing is overwritten.
        OSError: it cannot be written.
    """
    tensors = {"tokens": tokens.tokens}
    if tokens.coverage is not None:
        tensors["coverage"] = tokens.coverage
    facts = {
        "version": VERSION,
        "writer": f"redux-control {__version__}",
        "encoder": tokens.encoder,
        "parts": [asdict(part) for part in tokens.parts],
        "about": dict(tokens.about),
    }
    write_new(path, tensors, {METADATA_KEY: json.dumps(facts)})


def write_new(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all, and never over another one.

    Raises:
        FileExistsError: the file is there already.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is a file; a folder is needed to save {path.name} in.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)  # claims the name: of two processes, one fails here
    except FileExistsError:
        raise FileExistsError(f"{path} is there already; choose another name, since nothing is overwritten.") from None
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # Cloned, since safetensors refuses tensors that share memory, as entries of one conditioning often do.
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    try:
        save_file(own, partial, metadata=metadata)
        os.replace(partial, path)
    except SafetensorError as error:  # wraps the operating system's, e.g. of a full disk
        path.unlink()
        partial.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error}.") from error
    except BaseException:
        path.unlink()
        partial.unlink(missing_ok=True)
        raise


def load_tokens(path: str | Path) -> ReduxTokens:
    """Read a saved reference.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
    """
    files = open_files(path)
    facts = read_facts(files, METADATA_KEY, VERSION, "a reference saved by Save Reference")
    try:
        parts = tuple(
            Part(tuple((int(r), int(c)) for r, c in part["grids"]), int(part["full_count"]), float(part["weight"]))
            for part in facts["parts"]
        )
        with files.reader() as reader:
            tokens_BND = reader.read("tokens").clone()
            if not tokens_BND.is_floating_point():
                raise ValueError(f"its tokens are {tokens_BND.dtype}")
            coverage_BN = reader.read("coverage").clone() if "coverage" in files.shapes else None
        return ReduxTokens(tokens_BND, parts, coverage_BN, str(facts["encoder"]), dict(facts.get("about", {})))
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{files.path.name} is damaged ({reason}); save the reference again.") from error


def read_facts(files: TensorFiles, key: str, version: int, needed: str) -> dict[str, Any]:
    """The JSON object in a metadata key.

    Raises:
        ValueError: there is none, or one of another format version.
    """
    try:
        facts = json.loads(files.metadata[key])
        found = facts["version"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{files.path.name} is {identify(files.shapes)}; {needed} is needed.") from None
    if found != version:
        raise ValueError(f"{files.path.name} has format version {found}; this pack reads version {version}.")
    return dict(facts)
