"""WaveSpeedAI's interface: submit, poll, result, and what is said about each bad field."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from caller import V2, V3, Api, base64_of, encoded, load, png, wave
from PIL import Image

FIELDS = {"id", "model", "outputs", "urls", "has_nsfw_contents", "status", "created_at", "error", "timings"}

BAD = {
    "image": ["", 5, None, "not base64!", "ftp://example.com/a.png", "data:image/png,abc", "AAAA"],
    "size": ["511*512", "512*1537", "512x512", "512", "512*512*512", " 512*512", "512*512\n", 512, None],
    "num_inference_steps": [0, 51, 1.5, "28", True, None],
    "seed": [-2, 10000000000, 0.5, "1", False],
    "guidance_scale": [0.99, 20.01, "3.5", None],
    "num_images": [0, 5, "1", 2.5],
    "enable_safety_checker": ["true", 1, None],
    "enable_base64_output": [0, "no"],
    "enable_sync_mode": [1],
    "output_format": ["gif", "JPEG", 1],
    "prompt": [None, 7, "x" * 4001, "\ud800"],
    "strength": [-0.1, 10.1, "1"],
    "unknown_field": [1],
}


def test_submit_poll_result(api: Api) -> None:
    answer = api.post(V3, wave(num_images=2, seed=5))
    assert answer.status == 200
    body = answer.json
    assert set(body) == {"code", "message", "data"} and (body["code"], body["message"]) == (200, "success")
    job = body["data"]
    assert set(job) == FIELDS and job["model"] == "wavespeed-ai/flux-redux-dev"
    assert job["status"] in ("created", "processing") and job["outputs"] == [] and job["error"] == ""
    assert job["urls"]["get"] == f"{api.url}/api/v3/predictions/{job['id']}/result"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["created_at"])

    done = api.finish(job["urls"]["get"])
    assert done["status"] == "completed" and done["error"] == ""
    assert done["timings"]["inference"] > 0
    assert done["has_nsfw_contents"] == [False, False]
    first, second = (api.picture(url) for url in done["outputs"])
    assert first.format == "JPEG" and first.size == second.size == (256, 256)
    assert first.tobytes() != second.tobytes()
    assert api.finish(f"/api/v2/predictions/{job['id']}/result")["id"] == job["id"]


def test_a_seed_repeats_and_minus_one_does_not(api: Api) -> None:
    def run(**more: Any) -> bytes:
        job = api.post(V3, wave(output_format="png", enable_sync_mode=True, **more)).json["data"]
        assert job["status"] == "completed"
        return api.picture(job["outputs"][0]).tobytes()

    assert run(seed=7) == run(seed=7) != run(seed=8)
    assert run(seed=-1) != run(seed=-1)
    # What is our own acts: the reference's strength and the text.
    assert run(seed=7) != run(seed=7, strength=0.2) != run(seed=7, strength=0.0)
    assert run(seed=7, strength=0.2) != run(seed=7, strength=0.2, prompt="red cat")


def test_processing_is_seen_while_it_runs(api: Api) -> None:
    job = api.post(V3, wave(num_inference_steps=40, size="320*320")).json["data"]  # some seconds
    seen = [job["status"]]
    while seen[-1] not in ("completed", "failed"):
        seen.append(api.get(job["urls"]["get"]).json["data"]["status"])
        time.sleep(0.02)
    assert [status for status, before in zip(seen, [None, *seen], strict=False) if status != before] in (
        ["created", "processing", "completed"],
        ["processing", "completed"],
    )


def test_sizes_formats_and_base64(api: Api) -> None:
    request = wave(size="270*300", output_format="webp", enable_base64_output=True, enable_sync_mode=True)
    output = api.post(V3, request).json["data"]["outputs"][0]
    head, _, data = output.partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/webp;base64" and picture.format == "WEBP"
    assert picture.size == (256, 288)  # rounded down to multiples of 16


@pytest.mark.parametrize("field", BAD)
def test_each_bad_field_is_named(api: Api, field: str) -> None:
    for value in BAD[field]:
        answer = api.post(V2, {**wave(size="512*512"), field: value})
        assert answer.status == 400, (field, value, answer.body)
        body = answer.json
        assert body["code"] == 400 and body["data"]["field"] == field and field in body["message"]


def test_ends_of_the_ranges_are_good() -> None:
    """Against the schema alone: 50 steps at 1536 x 1536 would take minutes."""
    validate = load("schema").validate
    for size in ("512*1536", "1536*512", "1000*777"):
        assert validate("WaveSpeedInputV2", {"image": "x", "size": size})["size"] == size
    for size in ("256*256", "1536*300"):
        assert validate("WaveSpeedInputV3", {"image": "x", "size": size})["size"] == size
    for field, values in {"num_inference_steps": (1, 50, 28.0), "seed": (-1, 9999999999), "num_images": (1, 4)}.items():
        for value in values:
            assert validate("WaveSpeedInputV2", {"image": "x", field: value})[field] == value
    defaults = validate("WaveSpeedInputV2", {"image": "x"})
    assert defaults == {
        "image": "x",
        "size": "1024*1024",
        "num_inference_steps": 28,
        "seed": -1,
        "guidance_scale": 3.5,
        "num_images": 1,
        "output_format": "jpeg",
        "enable_base64_output": False,
        "enable_sync_mode": False,
        "enable_safety_checker": True,
        "prompt": "",
        "strength": 1.0,
    }


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"1" * 5000, 400), (b"[" * 100000, 400), (b"\xff", 400), (b"NaN", 400)],
)
def test_bodies_that_are_no_request(api: Api, raw: bytes, status: int) -> None:
    assert api.post(V2, raw=raw).status == status


def test_a_number_too_large_for_a_float_is_named(api: Api) -> None:
    answer = api.post(V2, raw=b'{"image": "AAAA", "guidance_scale": 1e999}')
    assert answer.status == 400 and answer.json["data"]["field"] == "guidance_scale"


def test_bodies_too_long_or_of_another_type(api: Api) -> None:
    assert api.post(V2, raw=b"{}", headers={"Content-Type": "text/plain"}).status == 415
    long = json.dumps({"image": "A" * (5 << 20)}).encode()
    answer = api.post(V2, raw=long)
    assert answer.status == 413 and "4 MB" in answer.json["message"]
    assert api.post(V2, {"image": "A" * (3 << 20)}).json["data"]["field"] == "image"  # more than max_image_mb


def test_unknown_jobs_are_404(api: Api) -> None:
    ids = ("0" * 32, "x", "..%2F..", "%00", "%ed%a0%80", "1' OR '1'='1")
    for id in ids:
        answer = api.get(f"/api/v2/predictions/{id.replace(' ', '%20')}/result")
        assert answer.status == 404, id
        assert answer.json["code"] == 404
        assert api.get(f"/redux-api/outputs/{id.replace(' ', '%20')}/0.jpg").status == 404
    done = api.post(V3, wave(enable_sync_mode=True)).json["data"]
    assert api.get(f"/v1/predictions/{done['id']}").status == 404  # another vendor's
    folder = done["outputs"][0].rpartition("/")[0]
    for index in ("1", "-1", "99999", "x", "%2e%2e"):
        assert api.get(f"{folder}/{index}.jpg").status == 404


class Pictures(BaseHTTPRequestHandler):
    """A web server with pictures, redirects and traps, on this machine."""

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", urllib.parse.unquote(self.path[4:]).replace("PORT", str(port)))
            self.end_headers()
            return
        content = {"/a.png": png(), "/a.jpg": encoded(Image.new("CMYK", (64, 48)), "JPEG"), "/page": b"<html>"}
        self.send_response(200 if self.path in content else 404)
        self.end_headers()
        self.wfile.write(content.get(self.path, b"nothing"))

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pictures) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()


def test_pictures_from_urls_and_data_uris(api: Api, pictures: str) -> None:
    for source in (
        f"{pictures}/a.png",
        f"{pictures}/a.jpg",
        f"{pictures}/to//a.png",
        f"data:;base64,{base64_of(png())}",
    ):
        done = api.post(V3, wave(image=source, enable_sync_mode=True)).json["data"]
        assert done["status"] == "completed", (source, done)


def test_urls_that_lead_elsewhere_are_refused(api: Api, pictures: str) -> None:
    port = pictures.rpartition(":")[2]
    refused = [f"http://localhost:{port}/a.png", f"{pictures}/to/http://localhost:PORT/a.png", "http://[::1]/a.png"]
    refused += [f"{pictures}/to/http://[::ffff:127.0.0.1]:PORT/a.png", f"http://127.1:{port}/a.png"]
    refused += [f"http://2130706433:{port}/a.png", f"http://0x7f000001:{port}/a.png", "http://169.254.169.254/latest"]
    refused += ["http://10.0.0.1/a.png", "http://192.168.1.1/", "http://0.0.0.0/"]
    for url in refused:
        answer = api.post(V3, wave(image=url))
        assert answer.status == 400 and "not of the public internet" in answer.json["message"], (url, answer.body)
    others = [f"{pictures}/page", f"{pictures}/none", f"{pictures}/to/file:///etc/passwd", "file:///etc/passwd"]
    others += [
        f"{pictures}/to/" * 5 + "a.png",
        "http://user:pw@127.0.0.1/a.png",
        "http://",
        "http://a b/",
        "gopher://x",
    ]
    for url in others:
        assert api.post(V3, wave(image=url)).status == 400, url


def test_the_vendors_own_curl_lines(api: Api, pictures: str) -> None:
    """As in WaveSpeedAI's documentation; host, key and image are changed, and the steps, to be quick."""
    submit = rf"""curl --silent --location --request POST "{api.url}/api/v3/wavespeed-ai/flux-redux-dev" \
--header "Content-Type: application/json" \
--header "Authorization: Bearer anything" \
--data-raw '{{
    "image": "{pictures}/a.png",
    "size": "256*256",
    "num_inference_steps": 1,
    "guidance_scale": 3.5,
    "num_images": 1,
    "seed": 0,
    "output_format": "jpeg",
    "enable_base64_output": false,
    "enable_safety_checker": false,
    "enable_sync_mode": false
}}'"""
    job = json.loads(subprocess.run(["sh", "-c", submit], capture_output=True, check=True).stdout)["data"]
    get = f"""curl --silent --location --request GET "{api.url}/api/v3/predictions/{job["id"]}/result" \
--header "Authorization: Bearer anything" """
    api.finish(job["urls"]["get"])
    result = json.loads(subprocess.run(["sh", "-c", get], capture_output=True, check=True).stdout)
    assert result["data"]["status"] == "completed" and len(result["data"]["outputs"]) == 1
