"""Requests that are taken once: the store of one machine, and the header. tests/pool asks the same of a pool."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from caller import REPLICATE, V3, Api, load, prediction, wave

jobs, stores, once, errors = load("jobs"), load("job_store"), load("once"), load("errors")
ORDER = jobs.Order("x.png", 16, 16, 1, 1, 1.0, 1)


def job(index: int, **more: Any) -> Any:
    return jobs.Job(f"{index:032x}", "wavespeed", ORDER, {}, **more)


def check_keys(store: Any) -> None:
    """What the runner needs of a store."""
    first = store.put(job(1, key="k" * 64, digest="d"))
    assert store.by_key("k" * 64) == first and store.by_key("other") is None
    with pytest.raises(jobs.Repeated) as refused:
        store.put(job(2, key="k" * 64))
    assert refused.value.job == first and store.get(job(2).id) is None
    store.put(job(3)), store.put(job(4))  # without a key there may be any number
    done = store.update(first, status=jobs.COMPLETED, finished=5.0)
    assert store.by_key("k" * 64) == done
    with pytest.raises(jobs.Repeated):
        store.put(job(2, key="k" * 64))
    store.remove(first.id)
    assert store.put(job(2, key="k" * 64)) == store.by_key("k" * 64)


def test_a_key_is_one_jobs(tmp_path: Path) -> None:
    store = stores.JobStore(tmp_path / "jobs.sqlite")
    check_keys(store)
    store.close()
    again = stores.JobStore(tmp_path / "jobs.sqlite")
    assert again.by_key("k" * 64).id == job(2).id
    again.close()


def test_names_are_each_callers_and_each_routes() -> None:
    def key(name: str, owner: str = "", vendor: str = "v") -> str:
        return str(once.read_once({"Idempotency-Key": name}, owner, vendor, {}).key)

    assert len({key("a"), key("b"), key("a", owner="me"), key("a", vendor="w")}) == 4
    assert once.read_once({}, "", "v", {}) is None
    for bad in ("", "x" * 256, "a\tb", "é"):
        with pytest.raises(errors.ApiError, match=f", {len(bad)} characters; 1 to 255 of plain text") as refused:
            once.read_once({"Idempotency-Key": bad}, "", "v", {})
        assert refused.value.status == 400


def test_a_request_that_comes_again_is_the_same_job(api: Api) -> None:
    for path, body, other, id_of in (
        (REPLICATE, prediction(seed=3), prediction(seed=4), lambda answer: answer["id"]),
        (V3, wave(seed=3), wave(seed=4), lambda answer: answer["data"]["id"]),
    ):
        header = {"Idempotency-Key": "order 7"}
        first = api.post(path, body, headers=header)
        again = api.post(path, body, headers=header)
        assert first.status == again.status < 300 and id_of(first.json) == id_of(again.json)
        refused = api.post(path, other, headers=header)
        assert refused.status == 422 and "came with another request" in str(refused.json)
        assert "version" not in str(refused.json)
        assert id_of(api.post(path, body, headers={"Idempotency-Key": "order 8"}).json) != id_of(first.json)
        assert api.post(path, body, headers={"Idempotency-Key": "x" * 256}).status == 400


def test_requests_that_come_at_the_same_time_are_one_job(api: Api) -> None:
    header, body = {"Idempotency-Key": "all at once"}, wave(seed=5)
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: api.post(V3, body, headers=header), range(8)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["data"]["id"] for answer in answers}) == 1
    done = api.finish(answers[0].json["data"]["urls"]["get"])
    assert done["status"] == "completed"
