"""WaveSpeedAI's uploads: a ticket first, then the file to the ticket's address, then a link that a request may name."""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web

from ..dialect import Reply, Route
from ..errors import ApiError
from ..files import StoredFile
from ..forms import read_file, read_form, refuse_unknown
from ..gateway import Gateway, iso_time
from ..schema import validate

FORM_BYTES = 1 << 20
PLAIN = "application/octet-stream"


async def open_ticket(gateway: Gateway, request: web.Request) -> Reply:
    values, base = validate("WaveSpeedUpload", request["body"]), gateway.base_url(request)
    owner = gateway.owner(request)
    ticket = gateway.files.open_ticket(owner, values["filename"], values["size"], values["content_type"])
    headers = {"Content-Type": ticket.content_type}
    upload = {"method": "PUT", "url": f"{base}/api/v3/media/uploads/{ticket.id}", "headers": headers}
    data = {"upload": upload, "download_url": _link(base, ticket), "expires_at": iso_time(ticket.expires)}
    return 200, {"code": 200, "message": "success", "data": data}


async def fill(gateway: Gateway, request: web.Request) -> Reply:
    """The clients send no key here: the ticket's id is what lets them in."""
    files = gateway.files
    ticket = files.ticket(request.match_info["ticket"])
    with gateway.entrance(ticket.owner):
        await files.fill(ticket.id, await read_file(request, ticket.size, gateway.settings.body_seconds))
    return 200, {"code": 200, "message": "success", "data": {}}


async def create(gateway: Gateway, request: web.Request) -> Reply:
    """The older way: the file in a form."""
    with gateway.entrance(gateway.owner(request)):
        form = await read_form(request, gateway.files.max_bytes + FORM_BYTES, gateway.settings.body_seconds)
        refuse_unknown(form, "file")
        part = form.get("file")
        if part is None:
            raise ApiError(400, "file is missing: the form field that holds the file.", "file")
        kind = part.content_type or PLAIN
        item = await gateway.files.put(gateway.owner(request), part.filename, kind, part.content)
    link = _link(gateway.base_url(request), item)
    data = {"type": kind.partition("/")[0], "download_url": link, "filename": item.name, "size": item.size}
    return 200, {"code": 200, "message": "success", "data": data}


def _link(base: str, item: StoredFile) -> str:
    return f"{base}/redux-api/files/{item.id}/{quote(item.name)}"


ROUTES = (
    Route("POST", "/api/v3/media/uploads", open_ticket, reads_json=True),
    Route("PUT", "/api/v3/media/uploads/{ticket}", fill, is_open=True),
    Route("POST", "/api/v3/media/upload/binary", create),
)
