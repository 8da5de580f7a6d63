"""References on disk, as safetensors: tokens need no vision tower to be used again.

A file has the tensors `tokens` [B, N, D] and, with a mask, `coverage` [B, N]; the metadata key `redux.tokens` holds a
JSON object with the format's version, the parts, the name of the encoder, and what the writer adds (fit, source size).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from .files import open_files
from .identify import identify
from .tokens import Part, ReduxTokens

METADATA_KEY = "redux.tokens"
VERSION = 1


def save_tokens(tokens: ReduxTokens, path: str | Path, **about: object) -> None:
    """Write a reference to a new file.

    Args:
        about: further facts for the metadata, JSON values.

    Raises:
        FileExistsError: the file is there already; nothing is overwritten.
    """
    tensors = {"tokens": tokens.tokens}
    if tokens.coverage is not None:
        tensors["coverage"] = tokens.coverage
    facts = {"version": VERSION, "encoder": tokens.encoder, "parts": [asdict(part) for part in tokens.parts], **about}
    write_new(path, tensors, {METADATA_KEY: json.dumps(facts)})


def write_new(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all, and never over another one.

    Raises:
        FileExistsError: the file is there already.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)  # claims the name: of two processes, one fails here
    except FileExistsError:
        raise FileExistsError(f"{path} is there already; choose another name, since nothing is overwritten.") from None
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial, metadata=metadata)
        os.replace(partial, path)
    except BaseException:
        path.unlink()
        partial.unlink(missing_ok=True)
        raise


def read_about(path: str | Path) -> dict:
    """The metadata of a saved reference: version, encoder, parts, and what the writer added.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
    """
    files = open_files(path)
    try:
        facts = json.loads(files.metadata[METADATA_KEY])
        version = facts["version"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(
            f"{files.path.name} is {identify(files.shapes)}; a reference saved by Save Reference is needed."
        ) from None
    if version != VERSION:
        raise ValueError(f"{files.path.name} has format version {version}; this pack reads version {VERSION}.")
    return facts


def load_tokens(path: str | Path) -> ReduxTokens:
    """Read a saved reference; errors are those of `read_about`."""
    facts = read_about(path)
    files = open_files(path)
    try:
        parts = tuple(
            Part(tuple((int(r), int(c)) for r, c in part["grids"]), int(part["full_count"]), float(part["weight"]))
            for part in facts["parts"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{files.path.name} is damaged: its metadata has no readable parts.") from error
    if "tokens" not in files.shapes:
        raise ValueError(f"{files.path.name} has no tensor 'tokens'; it is damaged.")
    with files.reader() as reader:
        coverage = reader.read("coverage").clone() if "coverage" in files.shapes else None
        return ReduxTokens(reader.read("tokens").clone(), parts, coverage, str(facts["encoder"]))
