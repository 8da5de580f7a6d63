"""Safetensors files read lazily: one file, a sharded set, or a Hugging Face folder, seen as one table of tensors.

Only safetensors is read. Pickled checkpoints can run code when opened, so they are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class TensorFiles:
    """The headers of one or several safetensors files; no tensor is read before `reader` is entered.

    Attributes:
        path: what the user named, for messages.
        shapes: tensor name -> shape.
        dtypes: tensor name -> dtype as safetensors writes it, e.g. "BF16".
        metadata: the files' `__metadata__`, merged.
        config: `config.json` beside the files, when the user named a folder; otherwise empty.
        homes: tensor name -> the file that holds it.
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
                {home: stack.enter_context(_open(home)) for home in set(self.homes.values())},
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
        subfolders: where to look first when `path` is the folder of a whole pipeline, e.g. "image_embedder".

    Raises:
        FileNotFoundError: nothing is there, or a shard is missing.
        ValueError: not safetensors, truncated, or a folder without weights.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}; a safetensors file or a folder with one is needed.")
    if path.is_dir():
        return _open_folder(path.resolve(), subfolders)
    if path.name.endswith(".index.json"):
        return _merge(path, _shards(path))
    if path.suffix.lower() in PICKLED:
        raise ValueError(f"{path.name} is a pickled checkpoint, which can run code; a .safetensors file is needed.")
    return _merge(path, [path])


def _open_folder(folder: Path, subfolders: tuple[str, ...]) -> TensorFiles:
    for place in (*(folder / name for name in subfolders), folder):
        indexes = sorted(place.glob("*.index.json"))
        files = _shards(indexes[0]) if indexes else sorted(place.glob("*.safetensors"))
        if files:
            config = place / "config.json"
            return _merge(folder, files, _read_json(config) if config.is_file() else {})
    raise ValueError(f"The folder {folder} holds no .safetensors file; name the file or the folder that holds it.")


def _shards(index: Path) -> list[Path]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} lists no shards; an index with a 'weight_map' is needed.")
    names = sorted(set(map(str, weight_map.values())))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{index} lists the shard {missing[0]}, which is not there; download it too.")
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
        with _open(file) as handle:
            found.metadata.update(handle.metadata() or {})
            for name in handle.keys():  # noqa: SIM118  (a file handle, not a dict)
                tensor = handle.get_slice(name)
                found.shapes[name], found.dtypes[name] = tuple(tensor.get_shape()), tensor.get_dtype()
                found.homes[name] = file
    return found


def _open(file: Path) -> Any:
    """A safetensors handle; opening checks the header, every tensor's place, and the length of the file."""
    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ValueError(
            f"{file.name} ({file.stat().st_size} bytes) is not a safetensors file, or it is truncated ({reason}); "
            "a complete .safetensors file is needed."
        ) from error
