"""WaveSpeedAI's flux-redux-dev: versions 2 and 3 of its interface, which differ in the smallest size."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from aiohttp import web

from ..dialect import Reply, Route, Vendor
from ..errors import ApiError
from ..gateway import Gateway, draw_seed, iso_time
from ..jobs import CANCELED, COMPLETED, CREATED, FAILED, PROCESSING, Job
from ..schema import validate
from ..webhooks import Webhook
from . import uploads

VENDOR = "wavespeed"
MODEL = "wavespeed-ai/flux-redux-dev"
STATUS = {CREATED: "created", PROCESSING: "processing", COMPLETED: "completed", FAILED: "failed", CANCELED: "failed"}
FORMATS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
SYNC_SECONDS = 600.0
SYNC_CODE = 5004
MULTIPLE = 16


async def submit(gateway: Gateway, request: web.Request) -> Reply:
    version, base = request.path.split("/")[2], gateway.base_url(request)
    values = validate(f"WaveSpeedInput{version.upper()}", request["body"])
    webhook = request.query.get("webhook")
    job = await gateway.submit(
        VENDOR, request, values, "image", _order(values), Webhook(webhook, base) if webhook else None, version=version
    )
    if not values["enable_sync_mode"]:
        return 200, wrap(await _describe(gateway, base, job, version))
    job = await gateway.runner.wait(job, SYNC_SECONDS)
    data = await _describe(gateway, base, job, version)
    if not job.done:  # what the vendor's clients look for, so that they do not take the job for failed
        error = f"Sync mode timed out after {SYNC_SECONDS:.0f} s. Query the result later at: {data['urls']['get']}"
        data |= {"status": "processing", "code": SYNC_CODE, "error": error}
    return 200, wrap(data)


async def result(gateway: Gateway, request: web.Request) -> Reply:
    job, version = gateway.job_of(request, VENDOR), request.path.split("/")[2]
    return 200, wrap(await _describe(gateway, gateway.base_url(request), job, version))


async def secret(gateway: Gateway, request: web.Request) -> Reply:
    return 200, wrap({"secret_key": f"whsec_{gateway.webhook_secret(gateway.owner(request))}"})


def shape_error(error: ApiError) -> dict[str, Any]:
    return {"code": error.status, "message": error.message, "data": {"field": error.field}}


def wrap(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 200, "message": "success", "data": data}


def sign(secret: str, content: bytes) -> str:
    """The vendor takes the secret's letters themselves as the key."""
    return f"v3,{hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()}"


def _order(values: dict[str, Any]) -> dict[str, Any]:
    width, height = (int(side) // MULTIPLE * MULTIPLE for side in values["size"].split("*"))
    return {
        "width": width,
        "height": height,
        "count": values["num_images"],
        "steps": values["num_inference_steps"],
        "guidance": float(values["guidance_scale"]),
        "seed": draw_seed() if values["seed"] == -1 else values["seed"],
        "prompt": values["prompt"],
        "strength": float(values["strength"]),
        "format": FORMATS[values["output_format"]],
        "quality": 95,
        "safety": "blank" if values["enable_safety_checker"] else "",
    }


async def _describe(gateway: Gateway, base: str, job: Job, version: str) -> dict[str, Any]:
    data = _describe_linked(gateway, base, job, version)
    if job.request.get("enable_base64_output"):
        data["outputs"] = await gateway.data_uris(job)
    return data


def _describe_linked(gateway: Gateway, base: str, job: Job, version: str = "") -> dict[str, Any]:
    outputs, version = gateway.links(job, base), version or job.options.get("version", "v3")
    return {
        "id": job.id,
        "model": MODEL,
        "outputs": outputs,
        "urls": {"get": f"{base}/api/{version}/predictions/{job.id}/result"},
        "has_nsfw_contents": list(job.flags) or [False] * len(outputs),
        "status": STATUS[job.status],
        "created_at": iso_time(job.created),
        "error": "The job was canceled." if job.status == CANCELED else job.error,
        "timings": {"inference": round(1000 * job.inference_seconds)},
    }


DIALECT = Vendor(
    prefixes=("/api/v2/", "/api/v3/"),
    routes=(
        *(
            route
            for version in ("v2", "v3")
            for route in (
                Route("POST", f"/api/{version}/{MODEL}", submit, reads_json=True),
                Route("GET", f"/api/{version}/predictions/{{id}}", result),
                Route("GET", f"/api/{version}/predictions/{{id}}/result", result),
            )
        ),
        Route("GET", "/api/v3/webhook/secret", secret),
        *uploads.ROUTES,
    ),
    shape_error=shape_error,
    name=VENDOR,
    describe=_describe_linked,
    sign=sign,
)
