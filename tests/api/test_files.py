"""Files that callers upload: in both vendors' ways, bound to a key, limited, inert, and gone after a while."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from caller import REPLICATE, V3, Api, load, png, prediction, wave

files, settings, errors = load("files"), load("settings"), load("errors")

BOUNDARY = "b0undary"


def form(**fields: tuple[bytes, str]) -> dict[str, Any]:
    """A multipart form of contents and the rest of their headers, as arguments of a request."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
        for name, (content, more) in fields.items()
    ]
    raw = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return {"raw": raw, "headers": {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}}


def picture_form(field: str = "content") -> dict[str, Any]:
    return form(**{field: (png(), '; filename="../a b.png"\r\nContent-Type: image/png')})


def test_a_file_of_replicates_is_an_input_until_it_is_deleted(api: Api) -> None:
    file = api.post("/v1/files", **picture_form())
    assert file.status == 201
    made = file.json
    assert made["name"] == "a b.png" and made["content_type"] == "image/png" and made["size"] == len(png())
    assert made["checksums"]["sha256"] == hashlib.sha256(png()).hexdigest()
    assert made["created_at"] < made["expires_at"]
    assert api.get(made["urls"]["get"]).json == made
    request = prediction(redux_image=made["urls"]["get"])
    done = api.post(REPLICATE, request, headers={"Prefer": "wait"}).json
    assert done["status"] == "succeeded" and done["input"]["redux_image"] == made["urls"]["get"]
    assert api.request("DELETE", f"/v1/files/{made['id']}").status == 204
    assert api.get(f"/v1/files/{made['id']}").status == 404
    refused = api.post(REPLICATE, request)
    assert refused.status == 400 and "no such file" in refused.json["detail"]


def test_forms_that_are_none(api: Api) -> None:
    assert api.post("/v1/files", {}).status == 415
    for raw in (b"", b"--", f"--{BOUNDARY}\r\n".encode(), f"--{BOUNDARY}\r\n\r\nx".encode()):
        assert api.post("/v1/files", **{**picture_form(), "raw": raw}).status == 400, raw
    assert api.post("/v1/files", **form(filename=(b"x", ""))).json["invalid_fields"][0]["field"] == "content"
    kind = form(content=(b"x", ""), type=(b"text", ""))
    assert api.post("/v1/files", **kind).json["invalid_fields"][0]["field"] == "type"
    for metadata in (b"[]", b"{", b"[" * 70000, b'{"x": "\\ud800"}'):
        sent = api.post("/v1/files", **form(content=(b"x", ""), metadata=(metadata, "")))
        assert sent.json["invalid_fields"][0]["field"] == "metadata"
    assert api.post("/v1/files", **form(content=(b"x" * (5 << 19), ""))).status == 413  # more than max_image_mb
    extra = api.post("/v1/files", **form(content=(b"x", ""), colour=(b"red", "")))
    assert extra.json["invalid_fields"][0]["field"] == "colour"
    named = api.post("/v1/files", **form(content=(b"x", ""), **{"metadata[mine]": (b"yes", "")}))
    assert named.json["metadata"] == {"mine": "yes"}
    many = {f"field{index}": (b"", "") for index in range(40)}
    assert api.post("/v1/files", **form(**many)).status == 400


def test_wavespeeds_upload_is_a_ticket_and_then_a_link(api: Api) -> None:
    asked = {"filename": "x.html", "size": len(png()), "content_type": "text/html"}
    data = api.post("/api/v3/media/uploads", asked).json["data"]
    put = data["upload"]["url"]
    assert data["upload"]["method"] == "PUT" and api.get(data["download_url"]).status == 404
    assert api.request("PUT", put, raw=png() + b"x").status == 413
    assert api.request("PUT", put, raw=png()[:-1]).status == 400
    assert api.request("PUT", put, raw=png()).status == 200
    assert api.request("PUT", put, raw=png()).status == 404  # a ticket is good for one file
    link = api.get(data["download_url"])
    assert link.body == png()
    # Whatever it says it is, a browser must not run it as a page of this server.
    assert link.headers["Content-Type"] == "application/octet-stream"
    assert link.headers["X-Content-Type-Options"] == "nosniff" and link.headers["Content-Disposition"] == "attachment"
    assert api.post(V3, wave(image=data["download_url"], enable_sync_mode=True)).json["data"]["status"] == "completed"
    older = api.post("/api/v3/media/upload/binary", **picture_form("file")).json["data"]
    assert api.get(older["download_url"]).body == png() and older["type"] == "image"
    assert api.post("/api/v3/media/uploads", {**asked, "size": 3 << 20}).status == 413


def store(folder: Path, **more: Any) -> Any:
    return files.FileStore(folder, settings.Settings(**more))


def test_a_file_is_its_keys_alone(tmp_path: Path) -> None:
    kept = store(tmp_path)
    item = asyncio.run(kept.put("first", "a.png", "image/png", b"content"))
    link = f"http://here/v1/files/{item.id}"
    assert asyncio.run(kept.read_link(link, "first", "image", "http://here")) == b"content"
    with pytest.raises(errors.ApiError, match="no such file"):
        asyncio.run(kept.read_link(link, "second", "image", "http://here"))
    assert asyncio.run(kept.read_link("http://there/v1/files/x", "first", "image", "http://here")) is None
    with pytest.raises(errors.ApiError) as refused:
        kept.get(item.id, "second")
    assert refused.value.status == 404 and kept.of("second") == []


def test_files_outlive_a_restart_and_no_longer_than_they_should(tmp_path: Path, monkeypatch: Any) -> None:
    kept = store(tmp_path, keep_hours=1)
    item = asyncio.run(kept.put("", "a.png", "image/png", b"content", {"mine": 1}))
    (tmp_path / ("0" * 32 + ".bin")).write_bytes(b"of a killed upload")
    (tmp_path / "bad.json").write_text("{")
    again = store(tmp_path, keep_hours=1)
    assert again.of("") == [item] and {path.name for path in tmp_path.glob("*.bin")} == {f"{item.id}.bin"}
    now = time.time()
    monkeypatch.setattr(files.time, "time", lambda: now + 3601)
    assert again.find(item.id) is None and again.of("") == [] and not list(tmp_path.glob("*.bin"))
    assert json.loads((tmp_path / "bad.json").read_text() + "}") == {}


def test_each_key_has_its_share(tmp_path: Path) -> None:
    kept = store(tmp_path, max_files_mb=2, max_image_mb=1, max_files=3, keys=("a", "b"))
    asyncio.run(kept.put("a", "x", "y/z", bytes(900_000)))
    with pytest.raises(errors.ApiError) as refused:
        asyncio.run(kept.put("a", "x", "y/z", bytes(900_000)))
    assert refused.value.status == 413
    asyncio.run(kept.put("b", "x", "y/z", bytes(900_000)))
    for _ in range(2):
        kept.open_ticket("a", "x", 1, "y/z")  # room that is promised counts
    with pytest.raises(errors.ApiError):
        kept.open_ticket("a", "x", 1, "y/z")


def test_a_disk_that_takes_nothing_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    kept = store(tmp_path)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.records, "put", refuse)
    with pytest.raises(errors.ApiError) as refused:
        asyncio.run(kept.put("", "a", "b/c", b"content"))
    assert refused.value.status == 503 and not list(tmp_path.iterdir()) and kept.of("") == []
