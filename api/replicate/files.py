"""Replicate's files: what its clients upload when an input is a local file."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from ..dialect import Reply, Route
from ..errors import ApiError
from ..files import FileStore, StoredFile
from ..forms import Part, read_form, refuse_unknown
from ..gateway import Gateway, iso_time
from ..schema import validate_field
from .models import page

FORM_BYTES = 1 << 20
"""Of a form beside its file."""
MAX_METADATA = 1 << 16
ENTRY = r"metadata\[([A-Za-z0-9_.-]{1,64})\]"
PLAIN = "application/octet-stream"


async def create(gateway: Gateway, request: web.Request) -> Reply:
    with gateway.entrance(gateway.owner(request)):
        form = await read_form(request, gateway.files.max_bytes + FORM_BYTES, gateway.settings.body_seconds)
        refuse_unknown(form, f"content|filename|type|metadata|{ENTRY}")
        content = form.get("content")
        if content is None:
            raise ApiError(400, "content is missing: the form field that holds the file.", "content")
        if "type" in form:
            validate_field("ReplicateFileForm", "type", form["type"].content.decode("utf-8", "replace"))
        texts = {name: form[name].content.decode("utf-8", "replace") for name in ("filename", "type") if name in form}
        item = await gateway.files.put(
            gateway.owner(request),
            texts.get("filename") or content.filename,
            texts.get("type") or content.content_type or PLAIN,
            content.content,
            _metadata(form),
        )
    return 201, _describe(gateway.base_url(request), item)


async def get(gateway: Gateway, request: web.Request) -> Reply:
    return 200, _describe(gateway.base_url(request), _file(gateway.files, gateway.owner(request), request))


async def delete(gateway: Gateway, request: web.Request) -> Reply:
    gateway.files.drop(_file(gateway.files, gateway.owner(request), request))
    return 204, None


async def listed(gateway: Gateway, request: web.Request) -> Reply:
    base = gateway.base_url(request)
    return 200, page([_describe(base, item) for item in gateway.files.of(gateway.owner(request))])


def _file(files: FileStore, owner: str, request: web.Request) -> StoredFile:
    return files.get(request.match_info["id"], owner)


def _metadata(form: dict[str, Part]) -> dict[str, Any]:
    """A field of JSON, or one field for each entry: metadata[name], as the Python client 2 sends it."""
    text = form["metadata"].content if "metadata" in form else b"{}"
    try:
        metadata = json.loads(text) if len(text) <= MAX_METADATA else None
    except (ValueError, RecursionError):
        metadata = None
    # A lone half of a character could be kept, and no strict parser could read what is told of the file.
    if not isinstance(metadata, dict) or re.search("[\ud800-\udfff]", json.dumps(metadata, ensure_ascii=False)):
        raise ApiError(
            400, f"metadata is no JSON object of at most {MAX_METADATA} bytes and of whole characters.", "metadata"
        )
    named = {match[1]: part.content for name, part in form.items() if (match := re.fullmatch(ENTRY, name))}
    texts = {name: content[:MAX_METADATA].decode("utf-8", "replace") for name, content in named.items()}
    return {**metadata, **texts}


def _describe(base: str, item: StoredFile) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "content_type": item.content_type,
        "size": item.size,
        "etag": item.sha256,
        "checksums": {"sha256": item.sha256},
        "metadata": item.metadata,
        "created_at": iso_time(item.created),
        "expires_at": iso_time(item.expires),
        "urls": {"get": f"{base}/v1/files/{item.id}"},
    }


ROUTES = (
    Route("POST", "/v1/files", create),
    Route("GET", "/v1/files", listed),
    Route("GET", "/v1/files/{id}", get),
    Route("DELETE", "/v1/files/{id}", delete),
)
