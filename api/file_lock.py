"""A lock that one process holds on a file for as long as it lives, however it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(str(error)) from error
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """Held from the constructor to `release`.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)  # readable: it may be another user's
        try:
            _lock(self.handle)
        except BaseException:
            os.close(self.handle)
            raise

    def release(self) -> None:
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)
