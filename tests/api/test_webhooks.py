"""Webhooks: told of each event, signed as the vendors sign, again after a failure and after a restart."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from caller import REPLICATE, V3, Api, load, prediction, wave
from receiver import Receiver

from tools.api_server import make_server


def test_replicates_webhooks_are_signed_and_tried_again(api: Api) -> None:
    """The first two attempts fail, one of them with a redirect, which is not followed."""
    webhooks = pytest.importorskip("replicate.webhook")
    with Receiver(failures=2) as receiver:
        body = {**prediction(seed=1), "webhook": f"{receiver.url}/hook", "webhook_events_filter": ["completed"]}
        made = api.post(REPLICATE, body).json
        (delivery,) = receiver.wait(1)
        sent = json.loads(delivery.body)
        assert (sent["id"], sent["status"]) == (made["id"], "succeeded")
        assert sent == api.get(made["urls"]["get"]).json
        secret = webhooks.WebhookSigningSecret(**api.get("/v1/webhooks/default/secret").json)
        text = delivery.body.decode()
        webhooks.Webhooks.validate(headers=dict(delivery.headers), body=text, secret=secret, tolerance=60)
        with pytest.raises(webhooks.InvalidSignatureError):
            webhooks.Webhooks.validate(headers=dict(delivery.headers), body=text + " ", secret=secret)
        ids = {item.headers["webhook-id"] for item in (*receiver.refused, delivery)}
        assert len(receiver.refused) == 2 and len(ids) == 1


def test_events_that_were_asked_for(api: Api) -> None:
    with Receiver() as receiver:
        events = ["start", "logs", "completed"]
        slow = prediction(num_inference_steps=20)
        api.post(REPLICATE, {**slow, "webhook": receiver.url, "webhook_events_filter": events})
        kinds: list[str] = []
        while "completed" not in kinds:
            taken = receiver.wait(len(kinds) + 1)
            kinds = [item.headers["webhook-id"].split("-")[1] for item in taken]
    assert kinds[0] == "start" and kinds[-1] == "completed" and set(kinds[1:-1]) <= {"logs"}


def test_wavespeeds_webhooks(api: Api) -> None:
    with Receiver() as receiver:
        made = api.post(f"{V3}?webhook={receiver.url}/hook", wave()).json["data"]
        (delivery,) = receiver.wait(1)
    secret = api.get("/api/v3/webhook/secret").json["data"]["secret_key"].removeprefix("whsec_")
    number, seconds = delivery.headers["webhook-id"], delivery.headers["webhook-timestamp"]
    signed = hmac.new(secret.encode(), f"{number}.{seconds}.".encode() + delivery.body, hashlib.sha256).hexdigest()
    assert delivery.headers["webhook-signature"] == f"v3,{signed}"
    sent = json.loads(delivery.body)
    assert (sent["id"], sent["status"]) == (made["id"], "completed") and len(sent["outputs"]) == 1


HERE = ("http://localhost:1/", "https://LOCALHOST./", "http://a.localhost/", "http://0x7f.1/")


def test_addresses_that_are_refused_before_anything_is_queued(api: Api) -> None:
    api.rest()
    before = api.get("/v1/predictions").json["results"]
    for url in (
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/x",
        "ftp://example.com",
        "nonsense",
        *HERE,
    ):
        answer = api.post(REPLICATE, {**prediction(), "webhook": url})
        assert answer.status == 400 and answer.json["invalid_fields"][0]["field"] == "webhook", url
        assert api.post(f"{V3}?webhook={url}", wave()).status == 400, url
    assert api.get("/v1/predictions").json["results"] == before
    queue = api.get("/queue")
    if queue.status == 200:  # a gateway has no ComfyUI in it
        assert not queue.json["queue_running"] and not queue.json["queue_pending"]
    unknown = {**prediction(), "webhook": "https://example.com/", "webhook_events_filter": ["begin"]}
    assert api.post(REPLICATE, unknown).status == 400


def test_a_name_that_leads_into_a_network_is_given_up_at_delivery(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks it up before: the job is made."""
    webhooks, jobs = load("webhooks"), load("jobs")
    job = jobs.Job("0" * 32, "replicate", jobs.Order("x.png", 16, 16, 1, 1, 1.0, 1), {}, status=jobs.FAILED)
    vendor = SimpleNamespace(describe=lambda *_: {}, sign=lambda *_: "")
    gateway = SimpleNamespace(find=lambda _: job, settings=load("settings").Settings(), webhook_secret=lambda _: "")

    async def inside(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))]

    async def test() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", inside)
        made = webhooks.Webhooks(tmp_path, gateway, {"replicate": vendor})
        made.check("http://nas.example/")
        with made.promise(job.id, webhooks.Webhook("http://nas.example/", "")):
            pass
        await made.look()
        await asyncio.gather(*made.under_way.values())
        assert not made.waiting

    asyncio.run(test())
    (line,) = [record.message for record in caplog.records if "given up" in record.message]
    assert line.endswith("leads to an address that is not of the public internet.")


def test_a_restart_loses_none(tmp_path: Path) -> None:
    """The server is killed while a job waits and while the receiver of another, which is done, is away."""
    with Receiver(failures=10**6) as receiver:
        server = make_server(tmp_path, trusted_hosts=["127.0.0.1"])
        server.start()
        try:
            api = Api(server.url)
            ids = _submit(api, receiver)
            assert server.process is not None
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            server.stop()
            receiver.failures = 0
            server.start()
            told = {json.loads(item.body)["id"]: json.loads(item.body)["status"] for item in receiver.wait(2)}
            assert told == dict.fromkeys(ids, "succeeded")
        finally:
            server.stop()


def _submit(api: Api, receiver: Receiver) -> list[Any]:
    """A job that is done and could not be told, and one that waits."""
    first = api.post(REPLICATE, {**prediction(seed=1), "webhook": receiver.url}, headers={"Prefer": "wait"}).json
    assert first["status"] == "succeeded"
    slow = prediction(num_inference_steps=10)
    return [first["id"], api.post(REPLICATE, {**slow, "webhook": receiver.url}).json["id"]]
