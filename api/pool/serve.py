"""The gateway's web server."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from aiohttp import web

from ..files import FileStore
from ..gateway import Gateway
from ..mount import VENDORS, begin, end, mount
from ..runner import Runner
from ..settings import FILE, Settings, load_settings
from ..webhooks import Webhooks
from .backend import PoolBackend
from .health import health_of
from .metrics import mount_metrics
from .secret import SharedSecret
from .settings import PoolSettings, broker_place, load_pool_settings

FILES, WEBHOOKS = "files", "webhooks"
END_SECONDS = 5.0

log = logging.getLogger(__name__)


def serve(listen: str, port: int, folder: Path) -> None:
    """Answer until SIGTERM or Ctrl-C. Jobs that wait or run go on without a gateway."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        pool, settings = load_pool_settings(os.environ), load_settings(folder / FILE, os.environ)
        app = make_server(settings, pool, folder)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    who = f"keys: {len(settings.keys)}" if settings.keys else "no key is set: for this machine only"
    log.info("Redux gateway at http://%s:%s (%s); broker %s.", listen, port, who, broker_place(pool))
    web.run_app(app, host=listen, port=port, access_log=None, print=None, shutdown_timeout=END_SECONDS)


def make_server(settings: Settings, pool: PoolSettings, folder: Path) -> web.Application:
    """The endpoints as a server of their own.

    Args:
        folder: for what this gateway keeps: callers' uploads, webhooks that are due, pictures being decoded.

    Raises:
        ValueError, ImportError: the settings name a store that cannot be used here.
    """
    folder = folder.absolute()
    app, gateway = web.Application(client_max_size=0), Gateway(settings)
    backend = PoolBackend(settings, pool, folder / "scratch")

    async def start(_: web.Application) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        gateway.secret = SharedSecret(lambda: backend.store.database)
        gateway.files = FileStore(folder / FILES, settings)
        gateway.webhooks = Webhooks(folder / WEBHOOKS, gateway, {vendor.name: vendor for vendor in VENDORS})
        gateway.runner = Runner(settings, backend, backend.open_store)
        await begin(gateway)

    async def stop(_: web.Application) -> None:
        await end(gateway)
        await backend.close()

    app.on_startup.append(start)
    app.on_cleanup.append(stop)
    mount(app, gateway)
    mount_metrics(app, health_of(backend), (*settings.keys, *(pool.watch_keys if settings.keys else ())))
    return app
