"""WaveSpeedAI's flux-redux-dev: versions 2 and 3 of its interface, which differ in the smallest size."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from .errors import ApiError
from .gateway import Gateway, draw_seed, iso_time
from .jobs import CANCELED, COMPLETED, CREATED, FAILED, PROCESSING, Job
from .schema import validate

VENDOR = "wavespeed"
MODEL = "wavespeed-ai/flux-redux-dev"
STATUS = {CREATED: "created", PROCESSING: "processing", COMPLETED: "completed", FAILED: "failed", CANCELED: "failed"}
FORMATS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
SYNC_SECONDS = 600.0
MULTIPLE = 16

Reply = tuple[int, dict[str, Any]]


async def submit(gateway: Gateway, request: web.Request) -> Reply:
    version = request.path.split("/")[2]
    values = validate(f"WaveSpeedInput{version.upper()}", request["body"])
    job = await gateway.submit(VENDOR, values, "image", _order(values))
    if values["enable_sync_mode"]:
        job = await gateway.runner.wait(job, SYNC_SECONDS)
    return 200, await _answer(gateway, request, job, version)


async def result(gateway: Gateway, request: web.Request) -> Reply:
    return 200, await _answer(gateway, request, gateway.job_of(request, VENDOR), request.path.split("/")[2])


def shape_error(error: ApiError) -> dict[str, Any]:
    return {"code": error.status, "message": error.message, "data": {"field": error.field}}


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


async def _answer(gateway: Gateway, request: web.Request, job: Job, version: str) -> dict[str, Any]:
    if job.request["enable_base64_output"]:
        outputs = await gateway.data_uris(job)
    else:
        outputs = gateway.links(job, request)
    data = {
        "id": job.id,
        "model": MODEL,
        "outputs": outputs,
        "urls": {"get": f"{gateway.base_url(request)}/api/{version}/predictions/{job.id}/result"},
        "has_nsfw_contents": list(job.flags) or [False] * len(outputs),
        "status": STATUS[job.status],
        "created_at": iso_time(job.created),
        "error": "The job was canceled." if job.status == CANCELED else job.error,
        "timings": {"inference": round(1000 * job.inference_seconds)},
    }
    return {"code": 200, "message": "success", "data": data}


ROUTES = tuple(
    route
    for version in ("v2", "v3")
    for route in (
        ("POST", f"/api/{version}/{MODEL}", submit, shape_error),
        ("GET", f"/api/{version}/predictions/{{id}}/result", result, shape_error),
    )
)
