"""Safetensors files read lazily: one file, a sharded set, or a Hugging Face folder, seen as one table of tensors.

Only safetensors is read. Pickled checkpoints can run code when opened, so they are refused by name.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class TensorFiles:
    """The headers of one or several safetensors files; no tensor is read before `reader` is entered.

    Attributes:
        path: what the user named, for messages.
        shapes: tensor name -> shape.
        metadata: the files' `__metadata__`, merged.
        config: `config.json` beside the files, when the user named a folder; otherwise empty.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    homes: dict[str, Path] = field(default_factory=dict)

    @contextmanager
    def reader(self) -> Iterator[TensorReader]:
        """Open the files memory-mapped for as long as the context lasts."""
        with ExitStack() as stack:
            yield TensorReader(
                {home: stack.enter_context(safe_open(home, "pt")) for home in set(self.homes.values())},
                self.homes,
            )


@dataclass(frozen=True)
class TensorReader:
    handles: dict[Path, Any]
    homes: dict[str, Path]

    def read(self, name: str) -> Tensor:
        """One tensor, a view of the mapped file."""
        return self.handles[self.homes[name]].get_tensor(name)


def open_files(path: str | Path, *, subfolders: tuple[str, ...] = ()) -> TensorFiles:
    """Read the headers of a `.safetensors` file, a `*.index.json`, or a folder that holds either.

    Args:
        path: file or folder.
        subfolders: names to look into when `path` is a folder of a whole pipeline, e.g. "image_embedder".

    Raises:
        FileNotFoundError: nothing is there, or a shard is missing.
        ValueError: not safetensors, truncated, or a folder without weights.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}; a safetensors file or a folder with one is needed.")
    if path.is_dir():
        return _open_folder(path, subfolders)
    if path.name.endswith(".index.json"):
        return _merge(path, _shards(path))
    if path.suffix in PICKLED:
        raise ValueError(f"{path.name} is a pickled checkpoint, which can run code; a .safetensors file is needed.")
    return _merge(path, [path])


def _open_folder(folder: Path, subfolders: tuple[str, ...]) -> TensorFiles:
    for place in (folder, *(folder / name for name in subfolders)):
        indexes = sorted(place.glob("*.index.json"))
        files = _shards(indexes[0]) if indexes else sorted(place.glob("*.safetensors"))
        if files:
            config = place / "config.json"
            return _merge(folder, files, _read_json(config) if config.is_file() else {})
    raise ValueError(f"The folder {folder} holds no .safetensors file; name the file or the folder that holds it.")


def _shards(index: Path) -> list[Path]:
    names = sorted(set(_read_json(index).get("weight_map", {}).values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing or not names:
        raise FileNotFoundError(f"{index} lists the shard {missing[0] if missing else '(none)'}, which is not there.")
    return [index.parent / name for name in names]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    return value if isinstance(value, dict) else {}


def _merge(path: Path, files: list[Path], config: dict[str, Any] | None = None) -> TensorFiles:
    found = TensorFiles(path, {}, {}, {}, config or {})
    for file in files:
        header = read_header(file)
        found.metadata.update(header.pop("__metadata__", {}))
        for name, entry in header.items():
            found.shapes[name] = tuple(entry["shape"])
            found.dtypes[name] = entry["dtype"]
            found.homes[name] = file
    return found


def read_header(file: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, after checking that the file is as long as its header says.

    Format: 8 bytes little-endian header length, the JSON header, then the tensors' bytes.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8 or not (text := stream.read(length)).startswith(b"{"):
            raise ValueError(f"{file.name} ({size} bytes) is not a safetensors file, or it is truncated.")
    try:
        header = json.loads(text)
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file.name} ({size} bytes) has a damaged safetensors header.") from error
    if size != 8 + length + end:
        raise ValueError(
            f"{file.name} is truncated or damaged: it has {size} bytes where its header promises {8 + length + end}; "
            "download it again."
        )
    return header


def to_dtype(weight: Tensor, scale: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """Convert a stored weight; an fp8 weight with a scale is multiplied out, since our layers know no scales."""
    if scale is not None:
        weight = (weight.float() * scale.float()).to(dtype or torch.bfloat16)
    return weight if dtype is None else weight.to(dtype)
