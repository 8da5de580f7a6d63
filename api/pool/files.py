"""Inputs and outputs between machines: a folder that all of them see, or an S3-compatible store, through fsspec."""

from __future__ import annotations

import os
import posixpath
import re
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

try:
    import fsspec
except ImportError as error:  # pragma: no cover
    raise ImportError("The pool's files need fsspec; install this pack's extra `pool`.") from error

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
PARTIAL = ".partial-"


class PoolFiles:
    """Files by name, as `inputs/DIGEST.png`.

    A file is seen whole or not at all. Every error is an OSError, of what is not there FileNotFoundError. All methods
    block: a server's event loop calls them in a thread.

    Args:
        url: a folder, or `s3://bucket/prefix`.
        options: of fsspec's file system; for S3 `endpoint_url`, and `key` and `secret` where the environment
            (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) has none.
    """

    def __init__(self, url: str, **options: Any) -> None:
        scheme = url.partition("://")[0] if "://" in url else "file"
        if scheme not in ("file", "s3"):
            raise ValueError(f"The files' place begins with {scheme}://; a folder or s3://bucket/prefix is needed.")
        self.is_folder = scheme == "file"
        if self.is_folder:
            url = str(Path(url.removeprefix("file://")).absolute())
            Path(url).mkdir(parents=True, exist_ok=True)
        else:
            options = {"use_listings_cache": False, "skip_instance_cache": True, **_TIMES, **options}
        try:
            self.system, self.root = fsspec.url_to_fs(url, **options)
        except ImportError as error:
            raise ImportError("s3:// needs s3fs; install it beside this pack's extra `pool`.") from error

    def put(self, path: Path, name: str) -> None:
        """Copy a file of this machine into the store, in the place of one of the same name."""
        self.write(name, path.read_bytes())

    def write(self, name: str, content: bytes) -> None:
        place = self._place(name)
        with _errors():
            if not self.is_folder:
                self.system.pipe_file(place, content)
                return
            os.makedirs(posixpath.dirname(place), exist_ok=True)
            partial = posixpath.join(posixpath.dirname(place), f"{PARTIAL}{uuid.uuid4().hex}")
            try:
                self.system.pipe_file(partial, content)
                os.replace(partial, place)
            except BaseException:
                with suppress(OSError):
                    os.unlink(partial)
                raise

    def read(self, name: str) -> bytes:
        place = self._place(name)
        with _errors():
            return bytes(self.system.cat_file(place))

    def get(self, name: str, path: Path) -> None:
        """Copy a file of the store to this machine; nothing is left of it there when that fails."""
        content = self.read(name)
        partial = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise

    def exists(self, name: str) -> bool:
        place = self._place(name)
        with _errors():
            return bool(self.system.isfile(place))

    def remove(self, name: str) -> None:
        """That it is gone already is no error."""
        place = self._place(name)
        with _errors(), suppress(FileNotFoundError):
            self.system.rm_file(place)

    def list(self, folder: str) -> Iterator[tuple[str, float]]:
        """Names below a folder, and when they were written, in seconds since 1970."""
        place = self._place(folder)
        with _errors():
            try:
                found = self.system.find(place, detail=True)
            except FileNotFoundError:
                found = {}
        for path, entry in found.items():
            name = path.removeprefix(self.root).lstrip("/")
            yield name, _time(entry)

    def sweep(self, folder: str, used: Collection[str], before: float) -> None:
        """Remove what lies below a folder, is older than a time and not `used`: what killed processes have left.

        Raises:
            OSError: one could not be removed; the others are.
        """
        problem: OSError | None = None
        for name, written in self.list(folder):
            if written < before and name not in used:
                try:
                    with _errors(), suppress(FileNotFoundError):
                        self.system.rm_file(posixpath.join(self.root, name))
                except OSError as error:
                    problem = error
        if problem:
            raise problem

    def check(self) -> None:
        """Write, read and remove a small file; raises OSError where that fails."""
        name = f"check/{uuid.uuid4().hex}"
        self.write(name, b"x")
        self.read(name)
        self.remove(name)

    def local(self, name: str) -> Path | None:
        """The file itself, where the store is a folder that this machine sees."""
        return Path(self._place(name)) if self.is_folder else None

    def _place(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a file in the pool's store.")
        return posixpath.join(self.root, name)


_TIMES = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 2}}}


@contextmanager
def _errors() -> Iterator[None]:
    """What a store's client raises, as an OSError without the store's address."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # botocore's errors share no class with OSError
        raise OSError(f"the file store does not answer as it should ({type(error).__name__})") from error


def _time(entry: dict[str, Any]) -> float:
    written = entry.get("mtime") or entry.get("LastModified") or time.time()
    if isinstance(written, datetime):
        return written.astimezone(timezone.utc).timestamp()
    return float(written)
