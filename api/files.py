"""Files that callers upload to name them in a request later: kept for a while, each for its own key alone."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .errors import ApiError
from .records import Records, write_whole
from .settings import Settings

SUFFIX = ".bin"
TICKET_SECONDS = 3600.0
MAX_NAME = 255
PLAIN = "application/octet-stream"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}")
_LINK = re.compile(r"https?://[^/]+/(?:v1/files|redux-api/files)/([0-9a-f]{32})(?:/[^/]*)?", re.IGNORECASE)


@dataclass(frozen=True)
class StoredFile:
    """What is known of a file. Times are seconds since 1970; `sha256` is empty before its content came."""

    id: str
    owner: str
    name: str
    content_type: str
    size: int
    created: float
    expires: float
    sha256: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


class FileStore:
    """Files in a folder, with a record beside each. Every key has an equal share of `max_files_mb`."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.records = Records(folder)
        self.tickets: dict[str, StoredFile] = {}
        self.files = dict(self._load())
        for path in folder.glob(f"*{SUFFIX}"):  # of an upload that a killed server never finished
            if path.name.removesuffix(SUFFIX) not in self.files:
                path.unlink(missing_ok=True)

    @property
    def max_bytes(self) -> int:
        return int(self.settings.max_image_mb * (1 << 20))

    def open_ticket(self, owner: str, name: str, size: int, content_type: str) -> StoredFile:
        """Room for a file whose content comes later, under the ticket's id.

        Raises:
            ApiError: 413, the file is too large, or the key's share is used up.
        """
        self._make_room(owner, size)
        now = time.time()
        kind = content_type if _MEDIA_TYPE.fullmatch(content_type) else PLAIN
        ticket = StoredFile(uuid.uuid4().hex, owner, _clean(name), kind, size, now, now + TICKET_SECONDS)
        self.tickets[ticket.id] = ticket
        return ticket

    async def put(
        self, owner: str, name: str, content_type: str, content: bytes, metadata: dict[str, Any] | None = None
    ) -> StoredFile:
        """Keep a file.

        Raises:
            ApiError: 413, the file is too large or the key's share is used up; 503, it cannot be written.
        """
        ticket = self.open_ticket(owner, name, len(content), content_type)
        return await self.fill(ticket.id, content, metadata)

    async def fill(self, id: str, content: bytes, metadata: dict[str, Any] | None = None) -> StoredFile:
        """Keep the content for a ticket, which is used up by it.

        Raises:
            ApiError: 404, there is no such ticket; 400, the size is another one; 503, it cannot be written.
        """
        ticket = self.ticket(id)
        if len(content) != ticket.size:
            raise ApiError(400, f"The file has {len(content)} bytes; {ticket.size} were announced.", "size")
        now, keep = time.time(), 3600 * self.settings.keep_hours
        digest = hashlib.sha256(content).hexdigest()
        item = replace(ticket, created=now, expires=now + keep, sha256=digest, metadata=metadata or {})
        del self.tickets[id]
        self.files[id] = item  # counts without a gap, so that uploads at the same time share the room
        try:
            await asyncio.to_thread(self._write, item, content)
        except OSError:
            self.drop(item)
            raise ApiError(503, "The file cannot be kept: this server's disk takes nothing more.") from None
        return item

    def ticket(self, id: str) -> StoredFile:
        """The ticket of this id.

        Raises:
            ApiError: 404, there is none, or no longer.
        """
        self.sweep()
        if id not in self.tickets:
            raise ApiError(404, "There is no such upload, or no longer; ask for a new one.")
        return self.tickets[id]

    def get(self, id: str, owner: str) -> StoredFile:
        """The file of this id, if it is this key's.

        Raises:
            ApiError: 404, there is none, or no longer.
        """
        item = self.find(id)
        if item is None or item.owner != owner:
            raise ApiError(404, f"There is no such file; files are kept for {self.settings.keep_hours:g} hours.")
        return item

    def find(self, id: str) -> StoredFile | None:
        """The file of this id, whosever it is."""
        item = self.files.get(id)
        return None if item is None or item.expires < time.time() else item

    def of(self, owner: str) -> list[StoredFile]:
        """A key's files, the newest first."""
        self.sweep()
        return sorted((item for item in self.files.values() if item.owner == owner), key=lambda item: -item.created)

    def path(self, item: StoredFile) -> Path:
        return self.folder / f"{item.id}{SUFFIX}"

    async def read_link(self, link: str, owner: str, field: str, base: str) -> bytes | None:
        """The content behind a link of ours in a request; None for a link of somebody else.

        Raises:
            ApiError: 400, the link leads to this server and to no file of this key.
        """
        match = _LINK.fullmatch(link.strip())
        item = self.find(match[1].lower()) if match else None
        if item is not None and item.owner == owner:
            with suppress(OSError):
                return await asyncio.to_thread(self.path(item).read_bytes)
        if match and link.strip().startswith(f"{base}/"):
            raise ApiError(400, f"{field}: there is no such file here, or no longer; upload it again.", field)
        return None

    def drop(self, item: StoredFile) -> None:
        self.files.pop(item.id, None)
        with suppress(OSError):
            self.path(item).unlink(missing_ok=True)
        with suppress(OSError):
            self.records.drop(item.id)

    async def clear_old(self) -> None:
        self.sweep()

    def sweep(self) -> None:
        """Remove what is too old. What cannot be removed now is tried again at the next start."""
        now = time.time()
        for item in [item for item in self.files.values() if item.expires < now]:
            self.drop(item)
        self.tickets = {id: ticket for id, ticket in self.tickets.items() if ticket.expires >= now}

    def _make_room(self, owner: str, size: int) -> None:
        if size > self.max_bytes:
            raise ApiError(413, f"The file has more than {self.settings.max_image_mb:g} MB.")
        self.sweep()
        share = self.settings.max_files_mb * (1 << 20) / max(1, len(self.settings.keys))
        held = [item.size for item in (*self.files.values(), *self.tickets.values()) if item.owner == owner]
        if sum(held) + size > share or len(held) >= self.settings.max_files:
            raise ApiError(413, f"Your {len(held)} files leave no room for another; delete some of them.")

    def _write(self, item: StoredFile, content: bytes) -> None:
        write_whole(self.path(item), content)
        self.records.put(item.id, asdict(item))

    def _load(self) -> Iterator[tuple[str, StoredFile]]:
        known = {item.name for item in fields(StoredFile)}
        for name, record in self.records.load().items():
            with suppress(TypeError):
                item = StoredFile(**{key: value for key, value in record.items() if key in known})
                if item.id == name and self.path(item).is_file():
                    yield name, item


def _clean(name: str) -> str:
    """A file's name without folders and control characters, short enough for any header."""
    name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", name.replace("\\", "/").rpartition("/")[2])
    return name[:MAX_NAME] or "file"
