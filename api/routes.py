"""The endpoints in ComfyUI's web server, over its own queue and its own folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from .files import FileStore
from .gateway import Gateway
from .job_store import JobStore
from .local import LocalBackend
from .mount import VENDORS, begin, end, mount
from .runner import Runner
from .secret import FILE as SECRET
from .secret import Secret
from .settings import Settings
from .webhooks import Webhooks

DATABASE = "redux-api.sqlite"
FILES, WEBHOOKS = "redux-api-files", "redux-api-webhooks"


def register(settings: Settings) -> None:
    """Have ComfyUI's server answer the endpoints too."""
    app = PromptServer.instance.app
    gateway = Gateway(settings)

    async def start(_: web.Application) -> None:
        user = Path(folder_paths.get_user_directory())
        folders = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
        gateway.secret = Secret(user / SECRET)
        gateway.files = FileStore(user / FILES, settings)
        gateway.webhooks = Webhooks(user / WEBHOOKS, gateway, {vendor.name: vendor for vendor in VENDORS})
        gateway.runner = Runner(settings, LocalBackend(settings, *folders), lambda: JobStore(user / DATABASE))
        await begin(gateway)

    async def stop(_: web.Application) -> None:
        await end(gateway)

    app.on_startup.append(start)
    app.on_cleanup.append(stop)
    mount(app, gateway)
