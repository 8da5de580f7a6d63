"""Whatever goes wrong below a vendor's prefix is told in that vendor's shape; lists and models of Replicate's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from caller import REPLICATE, Api, load, prediction

MODEL = "black-forest-labs/flux-redux-dev"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/nothing",
        "/v1/models/stability-ai/sdxl",
        "/v1/models/stability-ai/sdxl/predictions",
        f"/v1/models/{MODEL}/nothing",
        "/v1/trainings",
        "/v1/predictions/x/y/z",
        "/v1//",
        "/api/v3/google/other-model",
        "/api/v3/wavespeed-ai/z-image/turbo",
        "/api/v2/nothing",
        "/redux-api/nothing",
    ],
)
def test_unknown_paths(api: Api, method: str, path: str) -> None:
    answer = api.request(method, path, {} if method in ("POST", "PUT") else None)
    assert answer.status == 404 and answer.headers["Content-Type"].startswith("application/json")
    check_shape(path, answer.json, 404)


def check_shape(path: str, body: dict[str, Any], status: int) -> None:
    if path.startswith("/v1/"):
        assert body["status"] == status and body["title"] and body["detail"]
    elif path.startswith("/api/"):
        assert body["code"] == status and body["message"] and set(body) == {"code", "message", "data"}
    else:
        assert body["status"] == status and body["error"]


def test_other_methods_name_those_that_there_are(api: Api) -> None:
    cases = {"/v1/predictions": "GET, POST", REPLICATE: "POST", "/v1/files": "GET, POST"}
    cases |= {"/api/v3/wavespeed-ai/flux-redux-dev": "POST", "/redux-api/openapi.json": "GET"}
    for path, allowed in cases.items():
        answer = api.request("PATCH", path, {})
        assert answer.status == 405 and answer.headers["Allow"] == allowed, path
        check_shape(path, answer.json, 405)


def test_paths_of_comfyui_are_its_own(api: Api) -> None:
    """ComfyUI has some below /api/v2/ too."""
    assert isinstance(api.get("/api/v2/userdata").json, list)
    missing = api.get("/api/v2/userdata?path=none")
    assert missing.status == 404 and "code" not in missing.body.decode()
    assert api.get("/nothing").status == 404


def test_bodies_that_are_too_long_or_of_another_type(api: Api) -> None:
    for path in ("/v1/predictions", REPLICATE, "/api/v3/wavespeed-ai/flux-redux-dev", "/api/v3/media/uploads"):
        long = api.post(path, {"x": "A" * (5 << 20)})
        assert long.status == 413, path
        check_shape(path, long.json, 413)
        other = api.post(path, raw=b"{}", headers={"Content-Type": "text/plain"})
        assert other.status == 415 and "The body is text/plain; send" in other.body.decode(), path
        check_shape(path, other.json, 415)


def test_a_fault_of_ours_is_told_in_the_vendors_shape() -> None:
    """And nothing of it but that it was."""
    for name in ("replicate", "wavespeed"):
        dialect = load(name).DIALECT
        for status in (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503, 507):
            path = dialect.prefixes[0]
            check_shape(path, dialect.shape_error(load("errors").ApiError(status, "Words.")), status)


def test_versions(api: Api) -> None:
    version = api.get(f"/v1/models/{MODEL}").json["latest_version"]["id"]
    assert [item["id"] for item in api.get(f"/v1/models/{MODEL}/versions").json["results"]] == [version]
    described = api.get(f"/v1/models/{MODEL}/versions/{version}").json["openapi_schema"]
    assert set(described["components"]["schemas"]["Input"]["properties"]) >= {"redux_image", "num_outputs"}
    for name in (version, MODEL, f"{MODEL}:{version}"):
        made = api.post("/v1/predictions", {**prediction(), "version": name})
        assert made.status == 201 and made.json["version"] == version
        api.finish(made.json["urls"]["get"])
    for name in ("0" * 64, "stability-ai/sdxl"):
        refused = api.post("/v1/predictions", {**prediction(), "version": name})
        assert refused.status == 422 and refused.json["status"] == 422
    assert api.post("/v1/predictions", prediction()).json["invalid_fields"][0]["field"] == "version"


def test_lists_are_paged_both_ways(tmp_path: Any) -> None:
    """Three pages of a caller's jobs among another's, at equal times too."""
    jobs, listing, job_store = load("jobs"), load("replicate.listing"), load("job_store")
    kept = job_store.JobStore(tmp_path / "jobs.sqlite")
    order = jobs.Order("x.png", 16, 16, 1, 1, 1.0, 1)
    for index in range(250):
        for owner in ("me", "other"):
            id = f"{index:031x}{owner == 'me':x}"
            kept.put(jobs.Job(id, "replicate", order, {}, created=1000.0 + index // 3, owner=owner))
    seen: list[str] = []
    beside, pages = None, []
    while page := list(kept.recent("replicate", "me", beside))[: listing.PAGE]:
        pages.append([job.id for job in page])
        seen += pages[-1]
        _, beside = listing._read_cursor(listing._cursor("older", page[-1]))
    assert len(seen) == len(set(seen)) == 250 and seen == sorted(seen, reverse=True)
    _, beside = listing._read_cursor(listing._cursor("newer", kept.get(pages[1][0])))
    newer = list(kept.recent("replicate", "me", beside, newer=True))
    assert [job.id for job in reversed(newer)] == pages[0]
    kept.close()


def test_lists_by_time_and_bad_cursors(api: Api) -> None:
    made = [api.post(REPLICATE, prediction(seed=seed)).json for seed in range(2)]
    first, second = (item["created_at"] for item in made)
    after = api.get(f"/v1/predictions?created_after={second}").json["results"]
    assert made[1]["id"] in [item["id"] for item in after] and made[0]["id"] not in [item["id"] for item in after]
    before = api.get(f"/v1/predictions?created_before={first}").json["results"]
    assert not {item["id"] for item in made} & {item["id"] for item in before}
    for query in ("cursor=x", "cursor=AAAA", "created_after=yesterday", "created_before=1"):
        answer = api.get(f"/v1/predictions?{query}")
        assert answer.status == 400 and answer.json["invalid_fields"][0]["field"] in query
        assert query.startswith("cursor") or f"is '{query.partition('=')[2]}'; a time" in answer.json["detail"]
    for item in made:
        api.finish(item["urls"]["get"])


def test_a_stream_tells_the_end_of_a_job_that_was_canceled(api: Api) -> None:
    running = api.post(REPLICATE, prediction(num_inference_steps=50, megapixels="1")).json
    waiting = api.post(REPLICATE, prediction()).json
    api.post(waiting["urls"]["cancel"])
    stream = api.get(waiting["urls"]["stream"])
    assert stream.headers["Content-Type"].startswith("text/event-stream")
    events = [line.removeprefix("event: ") for line in stream.body.decode().splitlines() if line.startswith("event")]
    assert events == ["logs", "done"]
    assert json.loads(stream.body.decode().rpartition("data: ")[2]) == {"reason": "canceled"}
    api.post(running["urls"]["cancel"])
    api.finish(running["urls"]["get"])
    assert waiting["id"] not in waiting["urls"]["stream"]
    assert api.get("/v1/files/streams/nothing").status == 404
