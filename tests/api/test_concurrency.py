"""Fifty requests at once: none is lost, none gets another's pictures."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from caller import REPLICATE, V3, Api, base64_of, load, png, prediction, wait_for_none, wave
from PIL import Image

COUNT = 50


def sent(index: int) -> tuple[str, dict[str, Any]]:
    """A request that no other is equal to: seed, prompt, reference, size and vendor."""
    reference = base64_of(png(color=(5 * index, 255 - 5 * index, 40)))
    own = {"seed": 1000 + index, "prompt": f"cat {index}"}
    if index % 5 == 0:  # the least that this vendor makes is four times as large
        return REPLICATE, prediction(redux_image=reference, output_format="png", aspect_ratio="9:21", **own)
    return V3, wave(image=reference, output_format="png", size=f"{256 + 16 * (index % 3)}*256", **own)


def embedded(content: bytes) -> dict[str, Any]:
    """The workflow that made a picture, from the picture itself."""
    return dict(json.loads(Image.open(io.BytesIO(content)).text["prompt"]))


def test_fifty_at_once(api: Api) -> None:
    requests = [sent(index) for index in range(COUNT)]
    with ThreadPoolExecutor(COUNT) as pool:
        answers = list(pool.map(lambda request: api.post(*request), requests))
    assert [answer.status for answer in answers] == [200 if index % 5 else 201 for index in range(COUNT)]
    jobs = [answer.json.get("data", answer.json) for answer in answers]
    assert len({job["id"] for job in jobs}) == COUNT
    done = [api.finish(job["urls"]["get"], 300) for job in jobs]

    assert {job["status"] for job in done} == {"completed", "succeeded"}
    references, contents = set(), set()
    for index, job in enumerate(done):
        (link,) = job["outputs"] if "outputs" in job else job["output"]
        content = api.get(link).body
        graph, (_, body) = embedded(content), requests[index]
        body = body.get("input", body)
        assert graph["noise"]["inputs"]["noise_seed"] == body["seed"]
        assert graph["prompt"]["inputs"]["text"] == body["prompt"]
        size = tuple(map(int, body["size"].split("*"))) if index % 5 else (320, 768)
        assert Image.open(io.BytesIO(content)).size == size
        references.add(graph["reference"]["inputs"]["image"])
        contents.add(content)
    assert len(references) == len(contents) == COUNT


def test_more_than_the_queue_holds_at_once(api: Api) -> None:
    """Of 110 at once 100 find room; nobody is left without an answer, and every job taken ends."""
    api.rest()
    first = api.post(V3, wave(num_inference_steps=50, size="1024*1024")).json["data"]  # none ends behind it
    assert api.begin(first["urls"]["get"]) == "processing"
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda seed: api.post(V3, wave(seed=seed)), range(110)))
    assert Counter(answer.status for answer in answers) == {200: 99, 429: 11}
    jobs = [answer.json["data"] for answer in answers if answer.status == 200]
    assert api.post("/interrupt", {}).status == 200
    api.finish(first["urls"]["get"])
    while len(api.get("/queue").json["queue_pending"]) > 95:
        time.sleep(0.01)
    assert api.post("/queue", {"clear": True}).status == 200
    ends = [api.finish(job["urls"]["get"]) for job in jobs]
    assert {end["status"] for end in ends} == {"completed", "failed"}


def test_references_are_removed_when_nobody_needs_them(api: Api, server: Any) -> None:
    done = api.post(V3, wave(enable_sync_mode=True)).json["data"]
    assert done["status"] == "completed"
    wait_for_none(server.folder / "input" / "redux-api")


def test_the_store_over_a_restart(tmp_path: Any) -> None:
    jobs, open_store = load("jobs"), load("job_store").JobStore
    store = open_store(tmp_path / "jobs.sqlite")
    order = jobs.Order("x.png", 16, 16, 1, 1, 1.0, 1)
    for index in range(3):
        store.put(jobs.Job(f"{index:032x}", "wavespeed", order, {}))
    assert len(store.live) == 3
    first = store.update(store.live[f"{0:032x}"], status="completed", finished=time.time())
    assert len(store.live) == 2
    assert store.update(first, status="failed").status == "completed"  # what is done stays done
    store.close()
    again = open_store(tmp_path / "jobs.sqlite")
    assert set(again.live) == {f"{1:032x}", f"{2:032x}"} and again.get(first.id) == first
    assert [job.id for job in again.old(time.time() + 1)] == [first.id]
    again.remove(first.id)
    assert again.get(first.id) is None
