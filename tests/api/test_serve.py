"""`make serve`: the curl lines that it prints work as they are pasted, and settings of one's own are kept."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from caller import Api

from tools import serve


def test_the_printed_lines_work(api: Api) -> None:
    for line in serve.curl_lines(api.url, serve.PHOTOGRAPH, has_classifier=False, has_keys=False):
        done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
        job = json.loads(done.stdout)
        job = api.finish(job.get("data", job)["urls"]["get"])
        (link,) = job.get("outputs") or job["output"]
        assert api.picture(link).size == (512, 512)


def test_lines_for_keys_and_a_classifier() -> None:
    for line in serve.curl_lines("http://x", serve.PHOTOGRAPH, has_classifier=True, has_keys=True):
        assert "Authorization: Bearer $KEY" in line
        assert r"\"enable_safety_checker\": true" in line or r"\"disable_safety_checker\": false" in line


def test_settings_are_written_once(tmp_path: Path) -> None:
    path = serve.write_settings(tmp_path)
    assert json.loads(path.read_text("utf-8"))["models"]["guidance"] == "cfg"
    path.write_text("{}", "utf-8")
    assert serve.write_settings(tmp_path).read_text("utf-8") == "{}"
