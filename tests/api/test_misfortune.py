"""What one caller does to the others, and who else may come in: on a real server with two keys, or none."""

from __future__ import annotations

import socket
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from caller import REPLICATE, V3, Api, base64_of, load, png, prediction, wait_for_none, wave

from tools import bombs
from tools.api_server import make_server
from tools.server import Server
from tools.small_disk import SmallDisk

QUEUE = 8
BODY_SECONDS = 10
"""So long a body of 29 MB certainly arrives, however busy the machine is."""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path_factory.mktemp("disk"), 16)
    yield made
    made.close()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, disk: SmallDisk) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("keyed")
    for name in ("input", "user"):
        (disk.folder / name).mkdir()
        (folder / name).symlink_to(disk.folder / name, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDUX_API_KEYS", "first-key,second-key")
        server = make_server(folder, max_queue=QUEUE, body_seconds=BODY_SECONDS, decode_seconds=3)
        server.start()
    try:
        yield server
    finally:
        server.stop()


def caller(server: Server, key: str) -> Api:
    return Api(server.url, {"Authorization": f"Bearer {key}"})


@pytest.fixture
def first(keyed: Server) -> Api:
    return caller(keyed, "first-key")


@pytest.fixture
def second(keyed: Server) -> Api:
    return caller(keyed, "second-key")


def spent(server: Server) -> float:
    """Processor seconds of a server, whatever else the machine does."""
    assert server.process is not None
    used = psutil.Process(server.process.pid).cpu_times()
    return float(used.user + used.system)


def clear(api: Api) -> None:
    api.post("/queue", {"clear": True})
    api.post("/interrupt", {})
    end = time.monotonic() + 60
    while (queue := api.get("/queue").json)["queue_running"] or queue["queue_pending"]:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_half_sent_bodies_hold_no_place(keyed: Server, first: Api, second: Api) -> None:
    place = urllib.parse.urlsplit(keyed.url)
    head = f"POST {V3} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer first-key\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
    held = [socket.create_connection(("127.0.0.1", place.port or 0), 120) for _ in range(4 * QUEUE)]
    for connection in held:
        connection.sendall(head.encode())
    for api in (second, first):
        assert api.post(V3, wave(enable_sync_mode=True)).json["data"]["status"] == "completed"
    answers = [connection.recv(4096) for connection in held]
    too_slow = b"within %d s" % BODY_SECONDS
    assert all(b" 408 " in answer.partition(b"\r\n")[0] and too_slow in answer for answer in answers)
    for connection in held:
        connection.close()


def test_one_key_has_its_share_of_the_queue(first: Api, second: Api) -> None:
    long = wave(num_inference_steps=50, size="512*512")
    answers = [first.post(V3, long) for _ in range(QUEUE)]
    assert [answer.status for answer in answers] == [200] * (QUEUE // 2) + [429] * (QUEUE // 2)
    assert "its share" in answers[-1].json["message"]
    assert second.post(V3, wave()).status == 200
    clear(first)


@pytest.mark.parametrize("pattern", [b"[],", b"{},", b'"",', b"1,", b"[[[[", b'{"a":', b'{"image":['])
def test_bodies_of_many_parts_are_refused_before_they_are_parsed(
    keyed: Server, first: Api, second: Api, pattern: bytes
) -> None:
    """While one comes, the server answers others: a request is passed by 2 s of its processor time at most."""
    raw = b"[" + pattern * ((29 << 20) // len(pattern))
    with ThreadPoolExecutor(2) as pool:
        costly = pool.submit(first.post, V3, raw=raw)
        slowest = 0.0
        while not costly.done():
            start = spent(keyed)
            assert second.get("/redux-api/openapi.json").status == 200
            slowest = max(slowest, spent(keyed) - start)
        answer = costly.result()
    assert answer.status == 400 and "more parts" in answer.json["message"]
    assert slowest < 2


def test_what_a_request_may_hold_is_not_too_many_parts() -> None:
    parse = load("schema").parse_json
    assert len(parse(b'{"prompt": "' + b",[]{}:" * 660 + b'"}')["prompt"]) == 3960  # 4000 are the most


def test_bombs_are_refused_while_others_are_served(first: Api, second: Api) -> None:
    pictures = [bombs.jpeg_of_scans(8000, 1800), bombs.bmp_of_runs(15_000_000, 4, ends=4)]
    pictures += [bombs.png_of_nothing(20_000, 4_000)]
    with ThreadPoolExecutor(3) as pool:
        costly = [pool.submit(first.post, V3, wave(image=base64_of(picture))) for picture in pictures]
        assert second.post(V3, wave(enable_sync_mode=True)).json["data"]["status"] == "completed"
        for answer in (one.result() for one in costly):
            assert answer.status == 400 and answer.json["data"]["field"] == "image"


def test_a_full_disk_is_503_in_the_vendors_shape_and_passes(keyed: Server, first: Api, disk: SmallDisk) -> None:
    assert keyed.process is not None
    before = first.post(V3, wave(num_inference_steps=3)).json["data"]
    first.finish(before["urls"]["get"])
    references = disk.folder / "input" / "redux-api"
    wait_for_none(references)
    with disk.full(keyed.process.pid):
        picture = base64_of(png(color=(9, 9, 9)))
        wave_answer = first.post(V3, wave(image=picture))
        replicate_answer = first.post(REPLICATE, prediction(redux_image=picture))
        assert (wave_answer.status, wave_answer.json["code"]) == (503, 503), disk.kind
        assert (replicate_answer.status, replicate_answer.json["title"]) == (503, "Unavailable")
        assert first.get(before["urls"]["get"]).json["data"]["status"] == "completed"
    wait_for_none(references)
    assert first.post(V3, wave(image=picture, enable_sync_mode=True)).json["data"]["status"] == "completed"


def test_pictures_say_nothing_and_links_open_nothing_else(first: Api) -> None:
    for kind in ("png", "jpeg", "webp"):
        done = first.post(V3, wave(output_format=kind, prompt="a secret", enable_sync_mode=True)).json["data"]
        (link,) = done["outputs"]
        assert done["id"] not in link
        answer = Api("").get(link)
        assert answer.status == 200 and answer.headers["Cache-Control"] == "private"
        for secret in (b"a secret", b"class_type", b"redux-api", b"prompt"):
            assert secret not in answer.body
    part = urllib.parse.urlsplit(link).path.split("/")[3]
    assert first.get(f"/api/v3/predictions/{part}/result").status == 404
    assert first.get(f"/redux-api/outputs/{done['id']}/0.webp").status == 404


def test_a_caller_who_leaves_leaves_the_job(keyed: Server, first: Api) -> None:
    """As with the vendor: a wait is not the job, which is still to be run when its caller has left."""
    ahead = first.post(V3, wave(num_inference_steps=50, size="1024*1024")).json["data"]
    assert first.begin(ahead["urls"]["get"]) == "processing"
    place = urllib.parse.urlsplit(keyed.url)
    body = b'{"input": {"redux_image": "%s"' % base64_of(png()).encode()
    body += b', "megapixels": "0.25", "num_inference_steps": 10, "disable_safety_checker": true}}'
    head = f"POST {REPLICATE} HTTP/1.1\r\nHost: {place.netloc}\r\nAuthorization: Bearer first-key\r\nPrefer: wait\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", place.port or 0), 30) as connection:
        connection.sendall(head.encode() + body)
        end = time.monotonic() + 60
        while not first.get("/queue").json["queue_pending"]:
            assert time.monotonic() < end
            time.sleep(0.05)
    left = first.get("/v1/predictions").json["results"][0]
    assert left["status"] == "starting"
    assert first.post("/interrupt", {}).status == 200
    assert first.finish(f"/v1/predictions/{left['id']}")["status"] == "succeeded"


def raw(path: str, body: bytes, *headers: str, length: int = 5000, method: str = "POST") -> bytes:
    """A request as bytes; it is longer than its body where nothing else is said."""
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Authorization: Bearer first-key", *headers)
    return "\r\n".join((*lines, f"Content-Length: {length}", "", "")).encode() + body


JSON, GZIP = "Content-Type: application/json", "Content-Encoding: gzip"
FORM = "Content-Type: multipart/form-data; boundary=x"
CUT = [raw(V3, b"{", JSON), raw("/v1/files", b"--x\r\n", FORM), raw("/api/v3/media/uploads", b"{", JSON)]
UNREADABLE = [
    (raw(V3, b"{}", JSON, GZIP, length=2), b" 400 "),
    (raw(V3, b"{}", "Content-Type: text/plain", GZIP, length=2), b" 415 "),
    (raw("/v1/files", b"--x\r\n", FORM, GZIP, length=5), b" 400 "),
    (raw("/v1/nothing", b"{}", GZIP, length=2), b" 404 "),
    (raw("/redux-api/openapi.json", b"{}", GZIP, length=2, method="GET"), b" 200 "),
    (raw(V3, b"{}", JSON, "Content-Encoding: deflate", length=2), b" 400 "),
    (raw(V3, b"", JSON, "no header", length=0), b" 400 "),
    (f"POST {V3} HTTP/1.1\r\nHost: x\r\n{JSON}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode(), b" 400 "),
]


def test_callers_leave_no_tracebacks_in_the_log(keyed: Server, first: Api) -> None:
    """Those who close in the middle of a body or of a stream, and those whose bodies cannot be read."""
    before = keyed.log.read_text("utf-8", "replace")
    place = ("127.0.0.1", urllib.parse.urlsplit(keyed.url).port or 0)
    slow = first.post(REPLICATE, prediction(num_inference_steps=50, megapixels="1")).json
    stream = urllib.parse.urlsplit(slow["urls"]["stream"]).path
    assert first.begin(slow["urls"]["get"]) == "processing"
    for content in [*CUT * 5, raw(stream, b"", length=0, method="GET")]:
        with socket.create_connection(place, 60) as connection:
            connection.sendall(content)
            time.sleep(0.05)  # for the server to be in the middle of it
    for content, status in UNREADABLE:
        with socket.create_connection(place, 60) as connection:
            connection.sendall(content)
            assert status in connection.recv(1 << 16).partition(b"\r\n")[0], content
    late, _, body = UNREADABLE[1][0].partition(b"\r\n\r\n")  # after its answer
    with socket.create_connection(place, 60) as connection:
        connection.sendall(late + b"\r\n\r\n")
        assert b" 415 " in connection.recv(1 << 16)
        connection.sendall(body)
        connection.recv(1)
    before_step = first.get(slow["urls"]["get"]).json["logs"]
    while first.get(slow["urls"]["get"]).json["logs"] == before_step:  # then the stream has been written to once more
        time.sleep(0.1)
    first.post(slow["urls"]["cancel"])
    assert first.finish(slow["urls"]["get"])["status"] == "canceled"
    assert "Traceback" not in keyed.log.read_text("utf-8", "replace").removeprefix(before)


def test_a_body_that_is_not_what_its_encoding_says_is_told_so(first: Api) -> None:
    answer = first.post(V3, raw=b"{}", headers={"Content-Encoding": "gzip"})
    sentence = "The body is not whole, or no gzip as its header Content-Encoding says."
    assert (answer.status, answer.json["message"]) == (400, sentence)


FOREIGN: list[dict[str, Any]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Host": "127.0.0.1:80.evil.example"},
    {"Host": "[::1]evil.example"},
    {"Host": "localhost@evil.example"},
]
FOREIGN += [{name: "1.2.3.4"} for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Port")]
FOREIGN += [{name: "1.2.3.4"} for name in ("CF-Connecting-IP", "True-Client-IP", "X-Real-IP", "Via", "x-forwarded-x")]


def test_without_keys_no_page_and_no_proxy_comes_in(api: Api) -> None:
    """This server has ComfyUI's own CORS header, which would let every page in."""
    assert api.get("/queue").headers["Access-Control-Allow-Origin"] == "*"
    path = f"/v1/predictions/{'0' * 32}"
    for headers in FOREIGN:
        for answer in (api.post(V3, wave(), headers=headers), api.get(path, headers=headers)):
            assert answer.status == 403, (headers, answer.body)
    own = {"Origin": api.url, "Sec-Fetch-Site": "same-origin"}
    for headers in ({}, own, {"Sec-Fetch-Site": "none"}, {"Host": "localhost"}):
        assert api.get(path, headers=headers).status == 404, headers
