"""Replicate's black-forest-labs/flux-redux-dev, as its HTTP interface and its official clients speak."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from ..redux.sizes import size_of_ratio
from .errors import ApiError
from .gateway import Gateway, draw_seed, iso_time
from .jobs import CANCELED, COMPLETED, CREATED, FAILED, PROCESSING, Job
from .schema import validate

VENDOR = "replicate"
MODEL = "black-forest-labs/flux-redux-dev"
STATUS = {CREATED: "starting", PROCESSING: "processing", COMPLETED: "succeeded", FAILED: "failed", CANCELED: "canceled"}
TITLES = {400: "Input validation failed", 401: "Unauthenticated", 403: "Forbidden", 404: "Not found"}
TITLES |= {413: "Request too large", 415: "Unsupported media type", 429: "Too many requests", 503: "Unavailable"}
MAX_WAIT = 60.0

Reply = tuple[int, dict[str, Any]]


async def create(gateway: Gateway, request: web.Request) -> Reply:
    values = validate("ReplicateRequest", request["body"])["input"]
    job = await gateway.submit(VENDOR, values, "redux_image", _order(values))
    seconds = wait_seconds(request.headers.get("Prefer", ""))
    if not seconds:
        return 201, _answer(gateway, request, job)
    job = await gateway.runner.wait(job, seconds)
    answer = _answer(gateway, request, job)
    if not job.done:
        # Clients that asked to wait take any other status for the end.
        answer["status"] = STATUS[CREATED]
    return 201, answer


async def get(gateway: Gateway, request: web.Request) -> Reply:
    return 200, _answer(gateway, request, gateway.job_of(request, VENDOR))


async def cancel(gateway: Gateway, request: web.Request) -> Reply:
    return 200, _answer(gateway, request, await gateway.runner.cancel(gateway.job_of(request, VENDOR)))


def wait_seconds(prefer: str) -> float:
    """What a Prefer header asks for: "wait" is 60 s, "wait=5" is 5 s, anything else 0."""
    match = re.search(r"(?:^|[,;\s])wait(?:\s*=\s*([0-9]{1,6}))?(?:$|[,;\s])", prefer)
    return 0.0 if match is None else min(float(match[1] or MAX_WAIT), MAX_WAIT)


def shape_error(error: ApiError) -> dict[str, Any]:
    answer: dict[str, Any] = {"title": TITLES[error.status], "detail": error.message, "status": error.status}
    if error.status == 400:
        field = {"type": "invalid", "field": error.field, "description": error.message}
        answer["invalid_fields"] = [field]
    return answer


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


def _answer(gateway: Gateway, request: web.Request, job: Job) -> dict[str, Any]:
    url = f"{gateway.base_url(request)}/v1/predictions/{job.id}"
    answer: dict[str, Any] = {
        "id": job.id,
        "model": MODEL,
        "version": "hidden",
        "input": job.request,
        "output": gateway.links(job, request) if job.status == COMPLETED else None,
        "logs": _logs(job),
        "error": job.error or None,
        "status": STATUS[job.status],
        "created_at": iso_time(job.created),
        "started_at": iso_time(job.started) if job.started else None,
        "completed_at": iso_time(job.finished) if job.finished else None,
        "data_removed": False,
        "urls": {"get": url, "cancel": f"{url}/cancel"},
    }
    if job.finished:
        answer["metrics"] = {"predict_time": job.inference_seconds, "total_time": job.finished - job.created}
    return answer


def _logs(job: Job) -> str:
    """The seed, and the progress in the form that Replicate's clients read."""
    lines = [f"Using seed: {job.order.seed}"]
    step = job.order.steps if job.status == COMPLETED else job.step
    if step:
        share = step / max(1, job.order.steps)
        lines.append(f"{100 * share:3.0f}%|{'#' * round(10 * share):10}| {step}/{job.order.steps}")
    return "\n".join(lines)


ROUTES = (
    ("POST", f"/v1/models/{MODEL}/predictions", create, shape_error),
    ("GET", "/v1/predictions/{id}", get, shape_error),
    ("POST", "/v1/predictions/{id}/cancel", cancel, shape_error),
)
