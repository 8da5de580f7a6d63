"""A job as Replicate's prediction."""

from __future__ import annotations

from typing import Any

from ..gateway import Gateway, iso_time
from ..jobs import CANCELED, COMPLETED, CREATED, FAILED, PROCESSING, Job
from .models import MODEL, VERSION
from .stream import url_of_stream

VENDOR = "replicate"
STATUS = {CREATED: "starting", PROCESSING: "processing", COMPLETED: "succeeded", FAILED: "failed", CANCELED: "canceled"}


async def describe(gateway: Gateway, base: str, job: Job) -> dict[str, Any]:
    """The prediction, with its pictures as data URIs where its maker can use nothing else."""
    answer = describe_linked(gateway, base, job)
    if answer["output"] and job.options.get("data_uris"):
        answer["output"] = await gateway.data_uris(job)
    return answer


def describe_linked(gateway: Gateway, base: str, job: Job) -> dict[str, Any]:
    """The prediction, with links to its pictures."""
    url = f"{base}/v1/predictions/{job.id}"
    answer: dict[str, Any] = {
        "id": job.id,
        "model": MODEL,
        "version": VERSION,
        "input": job.request,
        "output": gateway.links(job, base) if job.status == COMPLETED else None,
        "logs": logs(job),
        "error": job.error or None,
        "status": STATUS[job.status],
        "created_at": iso_time(job.created),
        "started_at": iso_time(job.started) if job.started else None,
        "completed_at": iso_time(job.finished) if job.finished else None,
        "data_removed": False,
        "source": "api",
        "urls": {"get": url, "cancel": f"{url}/cancel", "web": url, "stream": url_of_stream(base, job)},
    }
    if job.finished:
        answer["metrics"] = {"predict_time": job.inference_seconds, "total_time": job.finished - job.created}
    return answer


def logs(job: Job) -> str:
    """The seed, and the progress in the form that Replicate's clients read."""
    lines = [f"Using seed: {job.order.seed}"]
    step = job.order.steps if job.status == COMPLETED else job.step
    if step:
        share = step / max(1, job.order.steps)
        lines.append(f"{100 * share:3.0f}%|{'#' * round(10 * share):10}| {step}/{job.order.steps}")
    return "\n".join(lines)
