"""Whole conditionings on disk.

A file holds the tensors under their paths in the structure, e.g. `0.cond`, `0.options.pooled_output` or
`0.references.1.region`, and the rest as JSON in the metadata key `redux.conditioning`. What neither a tensor nor JSON
can say (ControlNets, hooks, models) is refused by name: a conditioning is saved whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...redux.control import Piece, Reference
from ...redux.files import open_files
from ...redux.schedule import BlockWeights, Schedule
from ...redux.store import read_facts, write_new
from .conditioning import Conditioning, add_mark, find_mark, without_mark

METADATA_KEY = "redux.conditioning"
VERSION = 1
TENSOR = "tensor"  # {"tensor": name} in the JSON stands for a tensor of the file

Read = Callable[[str], torch.Tensor]


def save_conditioning(conditioning: Conditioning, path: str | Path) -> None:
    """Write a conditioning to a new file.

    Raises:
        ValueError: it holds something that cannot be saved.
        FileExistsError: the file is there already.
    """
    tensors: dict[str, torch.Tensor] = {}
    entries = []
    for index, (cond, options) in enumerate(conditioning):
        mark = find_mark(options)
        references = [_pack_reference(reference) for reference in mark.references] if mark else []
        entry = {"cond": cond, "options": without_mark(options), "references": references}
        entries.append(_pack(entry, f"{index}", tensors))
    facts = {"version": VERSION, "entries": entries}
    write_new(path, tensors, {METADATA_KEY: json.dumps(facts)})


def load_conditioning(path: str | Path) -> Conditioning:
    """Read a saved conditioning.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what the file is and what is needed.
    """
    files = open_files(path)
    facts = read_facts(files, METADATA_KEY, VERSION, "a file of Save Conditioning")
    try:
        with files.reader() as reader:
            return [_unpack_entry(packed, lambda name: reader.read(name).clone()) for packed in facts["entries"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{files.path.name} is damaged ({reason}); save the conditioning again.") from error


def _unpack_entry(packed: dict[str, Any], read: Read) -> list[Any]:
    entry = _unpack(packed, read)
    return [entry["cond"], add_mark(entry["options"], [_unpack_reference(values) for values in entry["references"]])]


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """A JSON value that stands for `value`; tensors are collected by name."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _pack(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"  # torch.Size is a tuple, too
        return {kind: [_pack(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise ValueError(
        f"The conditioning holds a {type(value).__name__} at {name}, which cannot be saved; save before it is added."
    )


def _unpack(packed: dict[str, Any], read: Read) -> Any:
    ((kind, value),) = packed.items()
    if kind == TENSOR:
        return read(value)
    if kind == "dict":
        return {key: _unpack(item, read) for key, item in value.items()}
    if kind in ("list", "tuple"):
        items = [_unpack(item, read) for item in value]
        return items if kind == "list" else tuple(items)
    return value


def _pack_reference(reference: Reference) -> dict[str, Any]:
    return {
        "pieces": [asdict(piece) for piece in reference.pieces],
        "strength": reference.strength,
        "region": reference.region_RYX,
        "schedule": asdict(reference.schedule),
        "blocks": reference.blocks.rules,
    }


def _unpack_reference(values: dict[str, Any]) -> Reference:
    return Reference(
        tuple(Piece(**piece) for piece in values["pieces"]),
        values["strength"],
        values["region"],
        Schedule(**values["schedule"]),
        BlockWeights(values["blocks"]),
    )
