"""The OpenAPI file: served, true, and a base for requests that nobody thought of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from caller import ROOT, Api

schemathesis = pytest.importorskip("schemathesis")
jsonschema_rs = pytest.importorskip("jsonschema_rs")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

DOCUMENT = json.loads((ROOT / "api" / "openapi.json").read_text("utf-8"))
CHECKS: list[Callable[..., Any]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
"""A picture that schemathesis draws is none, so that good data is accepted is for the other tests to show."""

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)


def shrink(case: Any) -> None:
    """What is good in size and steps becomes small: 50 steps at 1536 x 1536 would be a test of patience."""
    body = case.body.get("input", case.body) if isinstance(case.body, dict) else None
    for field, small in SMALL.items():
        if isinstance(body, dict) and is_valid(case.path, field, body.get(field, ABSENT)):
            body[field] = small[case.path.count("v2")] if isinstance(small, list) else small


SMALL: dict[str, Any] = {"size": ["256*256", "512*512"], "num_inference_steps": 1, "megapixels": "0.25"}
SMALL |= {"num_images": 1, "num_outputs": 1}
ABSENT = object()


def empty_queue(api: Api) -> None:
    api.post("/queue", {"clear": True})
    api.post("/interrupt", {})


def is_valid(path: str, field: str, value: Any) -> bool:
    """Whether the endpoint has this field and the value, or its default, is good there."""
    name = "ReplicateInput" if path.startswith("/v1/") else "WaveSpeedInputV3"
    name = "WaveSpeedInputV2" if "/v2/" in path else name
    known = DOCUMENT["components"]["schemas"][name]["properties"].get(field)
    if known is None:
        return False
    return value is ABSENT or jsonschema_rs.is_valid(known, value)


def test_the_file_is_served(api: Api) -> None:
    answer = api.get("/redux-api/openapi.json")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("application/json")
    assert answer.json == DOCUMENT


def test_every_path_is_there_and_no_other(api: Api) -> None:
    for path, methods in DOCUMENT["paths"].items():
        for method in ("get", "post"):
            status = api.request(
                method.upper(), path.replace("{id}", "0" * 32), {} if method == "post" else None
            ).status
            wanted = (400, 404) if method in methods else (404, 405)
            assert status in wanted and (method in methods or status != 400), (method, path, status)


@SCHEMA.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_requests_that_nobody_thought_of(case: Any, server: Any) -> None:
    shrink(case)
    empty_queue(Api(server.url))  # or a request that waits for its end would wait for all before it
    case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)


def test_the_jobs_that_were_made_come_to_an_end(api: Api) -> None:
    """So that what follows in this session finds an idle server."""
    empty_queue(api)
    end = time.monotonic() + 60
    while (queue := api.get("/queue").json)["queue_running"] or queue["queue_pending"]:
        assert time.monotonic() < end
        time.sleep(0.1)
