"""A disk that can be made full, or read-only, for a moment."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class SmallDisk:
    """A folder on a small disk of its own where this user may mount one, an ordinary folder elsewhere.

    There, `full` bounds the size of the files that the process may write, which SQLite and Python meet as they meet a
    full disk: as a write that fails. `kind` says which one it is.
    """

    def __init__(self, folder: Path, megabytes: int = 64) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)]
        try:
            mounted = (
                sys.platform == "linux" and not subprocess.run(command, capture_output=True, check=False).returncode
            )
        except OSError:
            mounted = False
        self.mounted = mounted
        self.kind = f"a disk of {megabytes} MB" if mounted else "a limit on file sizes"

    @contextmanager
    def full(self, process: int) -> Iterator[None]:
        """Nothing more can be written by a process meanwhile."""
        if not self.mounted:
            _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
            soft, _ = resource.prlimit(process, resource.RLIMIT_FSIZE, (0, hard))
            try:
                yield
            finally:
                with suppress(ProcessLookupError):
                    resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, hard))
            return
        filler = self.folder / "filler"
        try:
            self._fill(filler)
            yield
        finally:
            filler.unlink(missing_ok=True)

    @contextmanager
    def read_only(self, *folders: Path) -> Iterator[None]:
        """Nothing can be made in the folders meanwhile."""
        if self.mounted:
            # A bind mount, so that open files elsewhere on the disk do not keep it from becoming read-only.
            for folder in folders:
                subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
                subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        else:
            for folder in folders:
                folder.chmod(0o555)
        try:
            yield
        finally:
            for folder in folders:
                if self.mounted:
                    subprocess.run(["umount", "--lazy", str(folder)], check=True)
                else:
                    folder.chmod(0o755)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)
            self.mounted = False

    def _fill(self, path: Path) -> None:
        with open(path, "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        os.write(file.fileno(), bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
