"""What the gateways of a pool alone know, and all of them: the base of the keys that webhooks are signed with."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import sqlalchemy as sa

from ..secret import BYTES, Secret
from .database import Database
from .database import secrets as table

NAME = "webhooks"


class SharedSecret(Secret):
    """Kept in the job store, by whichever gateway is the first to need it.

    Args:
        database: of the job store; may raise StoreError, as `derive` does then.
    """

    def __init__(self, database: Callable[[], Database]) -> None:
        self.database, self.value = database, b""

    def derive(self, purpose: str) -> bytes:
        self.value = self.value or self._read()
        return super().derive(purpose)

    def _read(self) -> bytes:
        database = self.database()
        new = database.insert(table).values(name=NAME, value=secrets.token_hex(BYTES))
        database.count(new.on_conflict_do_nothing())
        return bytes.fromhex(database.run(sa.select(table.c.value).where(table.c.name == NAME))[0].value)
