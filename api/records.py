"""Small JSON objects by name in a folder, one file each: what must outlive a restart beside the jobs.

A file that cannot be read costs that record alone.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

SUFFIX = ".json"

log = logging.getLogger(__name__)


class Records:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> dict[str, dict[str, Any]]:
        """All records by name; unreadable ones stay where they are and are named in the log."""
        found = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                record = json.loads(path.read_text("utf-8"))
                found[path.name.removesuffix(SUFFIX)] = dict(record)
            except (OSError, ValueError, TypeError) as error:
                log.warning("Redux API: %s cannot be read and is left out: %s.", path, error)
        return found

    def put(self, name: str, record: dict[str, Any]) -> None:
        """Write a record, whole or not at all.

        Raises:
            OSError: the disk is full, most of all.
        """
        write_whole(self.folder / f"{name}{SUFFIX}", json.dumps(record).encode())

    def drop(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.folder / f"{name}{SUFFIX}")


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that it is never seen half; nothing is left of it when that fails.

    Raises:
        OSError: the disk is full, most of all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
