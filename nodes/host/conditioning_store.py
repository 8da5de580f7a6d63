"""Whole conditionings on disk.

A file holds the tensors under their paths in the structure, e.g. `0.cond`, `0.options.pooled_output` or
`0.references.1.region`, and the rest as JSON in the metadata key `redux.conditioning`. What neither a tensor nor JSON
can say (ControlNets, hooks, models) is refused by name: a conditioning is saved whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...redux.reference import Reference
from ...redux.schedule import BlockWeights, ModelName, Schedule
from ...redux.store import read_facts, write_tensors
from ...redux.tensor_files import open_files
from ...redux.tokens import Part
from .conditioning import Conditioning, add_mark, current_tokens, find_mark, without_mark
from .context import extend_mask
from .mark import Mark

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
    for index, (text, options) in enumerate(conditioning):
        mark = find_mark(options)
        entry = _joined(text, options, mark) if mark else {"cond": text, "options": options, "references": []}
        entries.append(_pack(entry, f"{index}", tensors))
    write_tensors(path, tensors, METADATA_KEY, VERSION, {"entries": entries})


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


def _joined(text_BTD: torch.Tensor, options: dict[str, Any], mark: Mark) -> dict[str, Any]:
    """An entry as it is in a file: the tokens stand before the text, as in the model's context."""
    options = without_mark(options)
    if "attention_mask" in options:
        length = sum(reference.length for reference in mark.references)
        options["attention_mask"] = extend_mask(options["attention_mask"], length)
    parts = [part.to(text_BTD) for part in (*current_tokens(text_BTD, mark), text_BTD)]
    batch = max(map(len, parts))
    cond = torch.cat([part.expand(batch, -1, -1) for part in parts], dim=1)
    return {"cond": cond, "options": options, "references": [_pack_reference(each) for each in mark.references]}


def _unpack_entry(packed: dict[str, Any], read: Read) -> list[Any]:
    entry = _unpack(packed, read)
    references = [_unpack_reference(values) for values in entry["references"]]
    lengths = [reference.length for reference in references]
    options, length = entry["options"], sum(lengths)
    if length and "attention_mask" in options:
        options["attention_mask"] = options["attention_mask"][..., length:, length:]
    *tokens, text = entry["cond"].split([*lengths, entry["cond"].shape[1] - length], dim=1)
    return [text, add_mark(options, references, tokens, bare=not bool(text.any()))]


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
        "pieces": [_pack_part(part) for part in reference.parts],
        "strength": reference.strength,
        "region": reference.region_RYX,
        "schedule": asdict(reference.schedule),
        "blocks": reference.blocks.rules,
        "made_for": reference.blocks.made_for and asdict(reference.blocks.made_for),
        "keep": reference.keep,
        "response": reference.response,
        "picture": reference.picture,
        "strengths": reference.strengths,
        "ends": reference.ends,
    }


def _pack_part(part: Part) -> dict[str, Any]:
    return {"length": part.length, "bias": part.log_count, "weight": part.weight, "images": part.images}


def _unpack_part(length: int, bias: float, weight: float, images: tuple[bool, ...] | None) -> Part:
    return Part(((1, length),), round(length * math.exp(bias)), weight, images)


def _unpack_reference(values: dict[str, Any]) -> Reference:
    return Reference(
        tuple(_unpack_part(**piece) for piece in values["pieces"]),
        values["strength"],
        values["region"],
        Schedule(**values["schedule"]),
        BlockWeights(values["blocks"], ModelName(**values["made_for"]) if values.get("made_for") else None),
        keep=values.get("keep", "exact"),
        response=values.get("response", "weight"),  # files of before there were others
        picture=values.get("picture"),
        strengths=values.get("strengths", ()),
        ends=values.get("ends", ()),
    )
