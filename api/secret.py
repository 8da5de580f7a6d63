"""What this server alone knows: the base of the keys that webhooks are signed with."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from pathlib import Path

from .records import write_whole

FILE = "redux-api-secret"
BYTES = 32

log = logging.getLogger(__name__)


class Secret:
    """Kept in a file that only its owner may read. Where it cannot be written, it lasts until the server ends."""

    def __init__(self, path: Path) -> None:
        try:
            self.value = bytes.fromhex(path.read_text("ascii"))
        except (OSError, ValueError):
            self.value = b""
        if len(self.value) == BYTES:
            return
        self.value = secrets.token_bytes(BYTES)
        try:
            write_whole(path, self.value.hex().encode())
        except OSError as error:
            log.warning(
                "Redux API: %s cannot be written, so webhooks are signed anew after a restart: %s.", path, error
            )

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, which say nothing of those for another."""
        return hmac.new(self.value, purpose.encode(), hashlib.sha256).digest()
