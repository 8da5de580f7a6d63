"""Put the miniature's five files into ComfyUI's models folder.

    python miniature/install.py /path/to/ComfyUI/models

Needs nothing but Python. Files that are already there are left alone, and those of an earlier release are renewed; a
different file of the same name is an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).resolve().parent / "weights"


def install(models: str | Path, weights: Path = WEIGHTS) -> list[Path]:
    """Join the parts in `weights` into the files below `models`; returns the paths of all five.

    Raises:
        FileNotFoundError: the models folder or a part is missing.
        FileExistsError: a file of that name is there and is a different one.
        ValueError: the parts are damaged.
    """
    models = Path(models)
    if not models.is_dir():
        raise FileNotFoundError(f"There is no folder {models}; the models folder of a ComfyUI is needed.")
    manifest = json.loads((weights / "manifest.json").read_text("ascii"))
    present = {name: _is_present(models / name, entry) for name, entry in manifest.items()}
    for name, entry in manifest.items():
        if not present[name]:
            _write(models / name, _join(name, entry, weights))
    return [models / name for name in manifest]


def _is_present(path: Path, entry: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    found = _digest(path.read_bytes())
    if found == entry["sha256"]:
        return True
    if found in entry.get("earlier", ()):
        return False
    raise FileExistsError(f"{path} is there and is another file; move it away or rename it, then install again.")


def _join(name: str, entry: dict[str, Any], weights: Path) -> bytes:
    data = b"".join((weights / part).read_bytes() for part in entry["parts"])
    if _digest(data) != entry["sha256"]:
        raise ValueError(f"The parts of {name} in {weights} are damaged; fetch the repository again.")
    return data


def _write(path: Path, data: bytes) -> None:
    """Write beside the place and rename, so that a half-written file never has the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the models folder of ComfyUI")
    try:
        for path in install(parser.parse_args().models):
            print(path)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
