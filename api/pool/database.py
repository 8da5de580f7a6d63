"""The tables that gateways and workers share, in SQLite or PostgreSQL, and one way to talk to them.

Every error of the database leaves this file as a StoreError, which callers see as 503 and background tasks try again.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..job_store import StoreError, write_ahead

try:
    import sqlalchemy as sa
    from sqlalchemy import event
    from sqlalchemy.dialects import postgresql, sqlite
except ImportError as error:  # pragma: no cover
    raise ImportError("The pool's job store needs SQLAlchemy; install this pack's extra `pool`.") from error

VERSION = 1
ANSWER_SECONDS = 5
"""The longest that a statement, a lock or a dead connection is waited for."""
_CREATION = 7_264_530_816  # PostgreSQL's advisory lock while tables are made; any number that nobody else takes

log = logging.getLogger(__name__)
tables = sa.MetaData()

jobs = sa.Table(
    "redux_jobs",
    tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("vendor", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("finished", sa.Double, index=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("link", sa.String(32), index=True),
    sa.Column("key", sa.String(64), unique=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Index("redux_jobs_in_order", "vendor", "owner", "created", "id"),
)

runs = sa.Table(
    "redux_runs",
    tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("published", sa.Double),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("deaths", sa.Integer, nullable=False),
    sa.Column("vanished", sa.Integer, nullable=False),
    sa.Column("beat", sa.Double),
    sa.Column("started", sa.Double),
    sa.Column("ended", sa.Double),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("canceled", sa.Boolean, nullable=False),
    sa.Column("answer", sa.Text),
    sa.Index("redux_runs_by_state", "state", "created"),
)

hosts = sa.Table(
    "redux_hosts",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("seen", sa.Double, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
)

tallies = sa.Table(
    "redux_tallies",
    tables,
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
)

secrets = sa.Table(
    "redux_secrets",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

versions = sa.Table("redux_version", tables, sa.Column("version", sa.Integer, primary_key=True))


class Database:
    """A connection pool. Made after a fork, never before: connections are no two processes' at once.

    Args:
        url: as SQLAlchemy reads it, `sqlite:////path/jobs.sqlite` or `postgresql+psycopg://user@host/name`. The
            password is best left to the environment (PGPASSWORD), and TLS to the URL's query (`?sslmode=verify-full`).

    Raises:
        StoreError: the database does not answer, or is of a newer version.
        ValueError: the URL is of neither database.
    """

    def __init__(self, url: str) -> None:
        place = sa.make_url(url)
        self.kind = place.get_backend_name()
        if self.kind == "postgresql":
            place = place.set(drivername="postgresql+psycopg")
        elif self.kind != "sqlite" or place.database in (None, "", ":memory:"):
            raise ValueError(f"The job store is {self.kind}; sqlite:////a/file or postgresql://... is needed.")
        try:
            self.engine = sa.create_engine(place, isolation_level="AUTOCOMMIT", **_options(self.kind))
        except ImportError as error:
            raise ImportError("PostgreSQL needs psycopg; install this pack's extra `pool`.") from error
        if self.kind == "sqlite":
            event.listen(self.engine, "connect", _tune_sqlite)
        try:
            self._prepare()
        except BaseException:
            self.engine.dispose()
            raise

    def close(self) -> None:
        self.engine.dispose()

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows ON CONFLICT, which both databases spell alike."""
        return (postgresql if self.kind == "postgresql" else sqlite).insert(table)

    @property
    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the one clock that all machines share."""
        if self.kind == "postgresql":
            return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        return sa.bindparam(None, callable_=time.time, type_=sa.Double, unique=True)  # read when the statement is run

    def run(self, statement: Any, values: Sequence[dict[str, Any]] | dict[str, Any] | None = None) -> Sequence[Any]:
        """One statement, which is whole or not at all; its rows, where it gives any."""
        with self.errors(), self.engine.connect() as connection:
            result = connection.execute(statement, values)
            return result.all() if result.returns_rows else ()

    def count(self, statement: Any, values: Sequence[dict[str, Any]] | dict[str, Any] | None = None) -> int:
        """One statement; how many rows it has changed."""
        with self.errors(), self.engine.connect() as connection:
            return int(connection.execute(statement, values).rowcount)

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Several statements, all or none. The first must be one that writes."""
        level = "READ COMMITTED" if self.kind == "postgresql" else "SERIALIZABLE"
        with self.errors(), self.engine.connect() as plain:
            connection = plain.execution_options(isolation_level=level)
            with connection.begin():
                yield connection

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:  # not the database's fault: whoever writes knows what it may mean
            raise
        except sa.exc.SQLAlchemyError as error:
            # The driver's words name machines, users and statements, which are nobody else's business.
            original = getattr(error, "orig", None) or error
            log.debug("Redux API: the job store: %s", original)
            raise StoreError(_reason(original)) from error

    def _prepare(self) -> None:
        with self.errors(), self.engine.connect() as connection:
            level = "READ COMMITTED" if self.kind == "postgresql" else "SERIALIZABLE"
            connection = connection.execution_options(isolation_level=level)
            with connection.begin():
                if self.kind == "postgresql":  # CREATE TABLE IF NOT EXISTS fails where two do it at once
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION)))
                else:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                tables.create_all(connection)
                found = connection.scalar(sa.select(sa.func.max(versions.c.version)))
                if found is None:
                    connection.execute(versions.insert(), {"version": VERSION})
        if (found or VERSION) > VERSION:
            raise StoreError(f"its tables are of version {found}, and this program knows {VERSION}")


def _options(kind: str) -> dict[str, Any]:
    if kind == "sqlite":
        return {"connect_args": {"timeout": ANSWER_SECONDS, "check_same_thread": False}}
    milliseconds = ANSWER_SECONDS * 1000
    arguments = {
        "connect_timeout": ANSWER_SECONDS,
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": ANSWER_SECONDS,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "application_name": "redux-control",
    }
    return {"pool_pre_ping": True, "pool_size": 4, "max_overflow": 8, "connect_args": arguments}


def _tune_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    write_ahead(connection, ANSWER_SECONDS)


def _reason(error: BaseException) -> str:
    if isinstance(error, sqlite3.Error):
        return str(error)
    sqlstate = getattr(error, "sqlstate", None)
    return f"the database refuses: {sqlstate}" if sqlstate else "the database does not answer"
