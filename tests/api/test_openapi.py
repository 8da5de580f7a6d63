"""The OpenAPI file: served, true, and a base for requests that nobody thought of."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from caller import ROOT, Api

sys.path.insert(0, str(ROOT / "tests" / "api" / "clients"))

schemathesis = pytest.importorskip("schemathesis")
pytest.importorskip("jsonschema_rs")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from small import shrink  # noqa: E402

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


def empty_queue(api: Api) -> None:
    api.post("/queue", {"clear": True})
    api.post("/interrupt", {})


def test_the_file_is_served(api: Api) -> None:
    answer = api.get("/redux-api/openapi.json")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("application/json")
    assert answer.json == DOCUMENT


def test_every_path_is_there_and_no_other(api: Api) -> None:
    """Each described method is answered as described; every other one is 405 and says which there are."""
    for path, methods in DOCUMENT["paths"].items():
        for method in ("get", "post", "put", "delete", "patch"):
            body = {} if method in ("post", "put", "patch") else None
            answer = api.request(method.upper(), re.sub("{[^}]*}", "0" * 32, path), body)
            if method in methods:
                assert str(answer.status) in methods[method]["responses"], (method, path, answer)
            else:
                assert answer.status == 405, (method, path, answer)
                assert answer.headers["Allow"] == ", ".join(sorted(map(str.upper, methods)))


def has_lists(form: Any) -> bool:
    """A form cannot say a list: its items are sent under names of their own, and of an empty one nothing is."""
    return isinstance(form, dict) and any(isinstance(value, list) for value in form.values())


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
    if case.media_type == "multipart/form-data" and has_lists(case.body):
        return
    shrink(case.path, case.body)
    empty_queue(Api(server.url))  # or a request that waits for its end would wait for all before it
    case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)


def test_the_jobs_that_were_made_come_to_an_end(api: Api) -> None:
    """So that what follows in this session finds an idle server."""
    empty_queue(api)
    end = time.monotonic() + 120
    while (queue := api.get("/queue").json)["queue_running"] or queue["queue_pending"]:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_schemathesis_from_its_command_line(server: Any) -> None:
    """Every check that it has, with submits that are really made; see clients/schemathesis_hooks.py."""
    folder = ROOT / "tests" / "api" / "clients"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/redux-api/openapi.json"]
    command += ["--phases", "examples,fuzzing", "--max-examples", "4", "--generation-deterministic", "--no-color"]
    command += ["--suppress-health-check", "all", "--request-timeout", "300"]
    environ = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "REDUX_URL": server.url, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environ}, timeout=540)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
