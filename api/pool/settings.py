"""Settings of a pool's programs, all from the environment, the same for gateways and workers.

REDUX_POOL_BROKER=amqp://USER@HOST:5672/VHOST   RabbitMQ; amqps:// for TLS. This machine's, where nothing is said.
REDUX_POOL_PASSWORD=...                         the broker's password; an address that holds one is refused
REDUX_POOL_TLS_CA, _TLS_CERT, _TLS_KEY=FILE     for amqps: who is trusted, and who we are
REDUX_POOL_STORE=sqlite:////FOLDER/jobs.sqlite  the job store, or postgresql://USER@HOST/NAME (with PGPASSWORD)
REDUX_POOL_FILES=/FOLDER                        pictures: a folder that all machines see, or s3://BUCKET/PREFIX
REDUX_POOL_JOB_SECONDS=600                      the longest that a job may run; the broker's consumer_timeout must
                                                be longer, see `consumer_timeout`
REDUX_POOL_HOST_SECONDS=10                      a ComfyUI that is silent for so long is lost
REDUX_POOL_LEASE_SECONDS=6                      a worker that is silent for so long is lost
REDUX_POOL_MAX_DEATHS=2                         hosts that may die on a job before it is given up
REDUX_POOL_MEMORY_GB=0                          memory that a host must have for this gateway's jobs
REDUX_POOL_FIRST_KEYS=key1                      those of REDUX_API_KEYS whose jobs go before all others'
REDUX_POOL_WATCH_KEYS=key1                      keys for /metrics and /health alone, beside REDUX_API_KEYS
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

PREFIX = "REDUX_POOL_"
GRACE_SECONDS = 60.0
"""How much later than its own time-out a job's process is ended, and then the broker takes its message back."""


@dataclass(frozen=True)
class PoolSettings:
    """See this module. A field is named as its variable."""

    store: str
    files: str
    broker: str = "amqp://guest@127.0.0.1:5672/"
    password: str = field(default="guest", repr=False)
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    job_seconds: float = 600.0
    host_seconds: float = 10.0
    lease_seconds: float = 6.0
    max_deaths: int = 2
    memory_gb: float = 0.0
    first_keys: tuple[str, ...] = field(default=(), repr=False)
    watch_keys: tuple[str, ...] = field(default=(), repr=False)

    @property
    def max_losses(self) -> int:
        """How often a job may be lost in all, with a host that died or a worker that fell silent."""
        return 2 * self.max_deaths

    @property
    def consumer_timeout(self) -> float:
        """Seconds that the broker must wait for a worker's acknowledgement: longer than any job is let run."""
        return self.job_seconds + 5 * GRACE_SECONDS

    @property
    def broker_url(self) -> str:
        """With the password; for Celery alone, never to be shown."""
        place = urlsplit(self.broker)
        user, _, host = place.netloc.rpartition("@")
        return urlunsplit(place._replace(netloc=f"{user or 'guest'}:{quote(self.password, safe='')}@{host}"))

    @property
    def tls(self) -> dict[str, Any] | None:
        """What amqps:// needs, as Python's ssl names it; None for amqp://."""
        import ssl

        if not self.broker.startswith("amqps:"):
            return None
        names = {"ca_certs": self.tls_ca, "certfile": self.tls_cert, "keyfile": self.tls_key}
        host = urlsplit(self.broker).hostname or ""
        found = {name: value for name, value in names.items() if value}
        return {**found, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": host}


def load_pool_settings(environ: Mapping[str, str]) -> PoolSettings:
    """Settings from the environment.

    Raises:
        ValueError: one is missing, or cannot be read; one sentence.
    """
    values: dict[str, Any] = {}
    kinds = PoolSettings.__dataclass_fields__
    for name, item in kinds.items():
        text = environ.get(PREFIX + name.upper(), "").strip()
        if text:
            values[name] = _read(name, str(item.type), text)
    for name in ("store", "files"):
        if name not in values:
            raise ValueError(f"{PREFIX}{name.upper()} is not set; the pool's gateways and workers share what it names.")
    place = urlsplit(values.get("broker", PoolSettings.broker))
    if place.scheme not in ("amqp", "amqps") or not place.hostname:
        raise ValueError(f"{PREFIX}BROKER is no address like amqp://USER@HOST:5672/.")
    if place.password:
        raise ValueError(f"{PREFIX}BROKER holds a password; set it as {PREFIX}PASSWORD instead.")
    return PoolSettings(**values)


def _read(name: str, kind: str, text: str) -> Any:
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind == "str":
        return text
    number = re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", text)
    if not number or (kind == "int" and number[1]):
        raise ValueError(f"{PREFIX}{name.upper()} is {text!r}; a number is needed.")
    return int(text) if kind == "int" else float(text)


def broker_place(settings: PoolSettings) -> str:
    """The broker's machine and port, to be shown."""
    place = urlsplit(settings.broker)
    return f"{unquote(place.hostname or '')}:{place.port or (5671 if place.scheme == 'amqps' else 5672)}"
