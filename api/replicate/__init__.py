"""Replicate's black-forest-labs/flux-redux-dev, as its HTTP interface and its official clients speak."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any

from aiohttp import web

from ...redux.sizes import size_of_ratio
from ..dialect import Reply, Route, Vendor
from ..errors import ApiError, shown
from ..gateway import Gateway, draw_seed
from ..schema import validate
from ..webhooks import Webhook
from . import files, listing, models
from .models import MODEL, VERSION
from .prediction import VENDOR, describe, describe_linked
from .stream import PATH as STREAM
from .stream import draw_token, stream

TITLES = {400: "Input validation failed", 401: "Unauthenticated", 403: "Forbidden", 404: "Not found"}
TITLES |= {405: "Method not allowed", 408: "Request timeout", 413: "Request too large", 415: "Unsupported media type"}
TITLES |= {422: "Invalid version or not permitted", 429: "Too many requests"}
TITLES |= {500: "Internal server error", 503: "Unavailable"}
MAX_WAIT = 60.0
MIN_LIFETIME = 5
MAX_LIFETIME_HOURS = 999_999


async def create(gateway: Gateway, request: web.Request) -> Reply:
    return await _create(gateway, request, validate("ReplicateRequest", request["body"]))


async def create_version(gateway: Gateway, request: web.Request) -> Reply:
    """The same by version, as clients do for a reference like owner/name:version."""
    body = validate("ReplicateVersionRequest", request["body"])
    if body.pop("version") not in (VERSION, MODEL, f"{MODEL}:{VERSION}"):
        raise ApiError(422, f"version is unknown here; {MODEL} and its version {VERSION} are known.", "version")
    return await _create(gateway, request, body)


async def _create(gateway: Gateway, request: web.Request, body: dict[str, Any]) -> Reply:
    values, base, token = body["input"], gateway.base_url(request), draw_token()
    seconds = wait_seconds(request.headers.get("Prefer", ""))
    deadline = lifetime_seconds(request.headers.get("Cancel-After", ""))
    job = await gateway.submit(
        VENDOR,
        request,
        values,
        "redux_image",
        _order(values),
        _webhook(base, body),
        stream=token,
        cancel_after=deadline,
        data_uris=bool(seconds) and wraps_outputs(request) and not base.startswith("https:"),
    )
    gateway.remember_stream(token, job.id)
    if not seconds:
        return 201, await describe(gateway, base, job)
    job = await gateway.runner.wait(job, seconds)
    answer = await describe(gateway, base, job)
    if not job.done:
        # Clients that asked to wait take any other status for the end.
        answer["status"] = "starting"
    return 201, answer


async def get(gateway: Gateway, request: web.Request) -> Reply:
    return 200, await describe(gateway, gateway.base_url(request), gateway.job_of(request, VENDOR))


async def cancel(gateway: Gateway, request: web.Request) -> Reply:
    job = await gateway.runner.cancel(gateway.job_of(request, VENDOR))
    return 200, await describe(gateway, gateway.base_url(request), job)


async def secret(gateway: Gateway, request: web.Request) -> Reply:
    return 200, {"key": f"whsec_{gateway.webhook_secret(gateway.owner(request))}"}


def wait_seconds(prefer: str) -> float:
    """What a Prefer header asks for: "wait" is 60 s, "wait=5" is 5 s, anything else 0."""
    match = re.search(r"(?:^|[,;\s])wait(?:\s*=\s*([0-9]{1,6}))?(?:$|[,;\s])", prefer)
    return 0.0 if match is None else min(float(match[1] or MAX_WAIT), MAX_WAIT)


def lifetime_seconds(text: str) -> float | None:
    """What a Cancel-After header asks for: "90", "90s", "5m" or "1h30m45s"; without one None.

    Raises:
        ApiError: it is no such duration.
    """
    if not text.strip():
        return None
    match = re.fullmatch(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})s?)?", text.strip())
    hours, minutes, rest = (int(part or 0) for part in (match.groups() if match else (0, 0, 0)))
    seconds = 3600 * hours + 60 * minutes + rest
    if not MIN_LIFETIME <= seconds <= 3600 * MAX_LIFETIME_HOURS:
        needed = f"a duration from {MIN_LIFETIME} seconds to {MAX_LIFETIME_HOURS} hours, e.g. 90s or 1h30m"
        raise ApiError(400, f"The header Cancel-After is '{shown(text, 40)}'; {needed}, is needed.")
    return float(seconds)


def wraps_outputs(request: web.Request) -> bool:
    """Whether the caller is an official client, whose `run` makes file objects of https and data URIs alone."""
    return "replicate" in request.headers.get("User-Agent", "").lower()


def shape_error(error: ApiError) -> dict[str, Any]:
    title = TITLES.get(error.status, "Error")
    if error.status == 422 and error.field != "version":
        title = "Unprocessable request"
    answer: dict[str, Any] = {"title": title, "detail": error.message, "status": error.status}
    if error.status == 400:
        field = {"type": "invalid", "field": error.field, "description": error.message}
        answer["invalid_fields"] = [field]
    return answer


def sign(secret: str, content: bytes) -> str:
    """As standard-webhooks has it."""
    return f"v1,{base64.b64encode(hmac.new(base64.b64decode(secret), content, hashlib.sha256).digest()).decode()}"


def _webhook(base: str, body: dict[str, Any]) -> Webhook | None:
    if body.get("webhook"):
        events = body.get("webhook_events_filter")
        return Webhook(body["webhook"], base, events) if events else Webhook(body["webhook"], base)
    if body.get("webhook_completed"):  # the older name, for the end alone
        return Webhook(body["webhook_completed"], base, ["completed"])
    return None


def _order(values: dict[str, Any]) -> dict[str, Any]:
    width, height = size_of_ratio(values["aspect_ratio"], float(values["megapixels"]))
    return {
        "width": width,
        "height": height,
        "count": values["num_outputs"],
        "steps": values["num_inference_steps"],
        "guidance": float(values["guidance"]),
        "seed": draw_seed() if values["seed"] is None else values["seed"],
        "prompt": values["prompt"],
        "strength": float(values["strength"]),
        "format": values["output_format"],
        "quality": values["output_quality"],
        "safety": "" if values["disable_safety_checker"] else "block",
    }


DIALECT = Vendor(
    prefixes=("/v1/",),
    routes=(
        Route("POST", f"/v1/models/{MODEL}/predictions", create, reads_json=True),
        Route("POST", "/v1/predictions", create_version, reads_json=True),
        Route("GET", "/v1/predictions", listing.predictions),
        Route("GET", "/v1/predictions/{id}", get),
        Route("POST", "/v1/predictions/{id}/cancel", cancel),
        Route("GET", STREAM, stream, is_open=True),
        Route("GET", "/v1/webhooks/default/secret", secret),
        *files.ROUTES,
        *models.ROUTES,
    ),
    shape_error=shape_error,
    name=VENDOR,
    describe=describe_linked,
    sign=sign,
)
