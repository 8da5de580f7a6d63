"""The examples of deploy/: read by the linters and parsers of those who will read them, and true to this code."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from caller import ROOT, load
from yamllint import linter
from yamllint.config import YamlLintConfig

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.37"
CONFIG = "{extends: default, rules: {line-length: {max: 120}}}"
METRIC = re.compile(r"redux_\w+")


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))


def test_kubernetes_files_are_tidy() -> None:
    problems = list(linter.run((DEPLOY / "kubernetes.yaml").read_text("utf-8"), YamlLintConfig(CONFIG)))
    assert problems == []


def test_kubernetes_knows_every_field() -> None:
    checked = 0
    for manifest in manifests():
        if not manifest["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
            checked += 1
    assert checked == 5
    wrong = {**manifests()[3], "spec": {"selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_kubernetes_parts_name_one_another() -> None:
    found = {(item["kind"], item["metadata"]["name"]): item for item in manifests()}
    scaled, access = found["ScaledObject", "redux-worker"]["spec"], found["TriggerAuthentication", "redux-rabbitmq"]
    assert ("Deployment", scaled["scaleTargetRef"]["name"]) in found
    secret = access["spec"]["secretTargetRef"][0]
    assert secret["key"] in found["Secret", secret["name"]]["stringData"]
    rabbit, prometheus = (trigger["metadata"] for trigger in scaled["triggers"])
    models = load("settings").Models()
    assert re.search(rabbit["queueName"], load("pool.hosts").Capability(models).queue)
    (idle,) = re.findall(r'^IDLE_QUEUE = "(.+)"$', (ROOT / "api/pool/watch.py").read_text("utf-8"), re.MULTILINE)
    assert not re.search(rabbit["queueName"], idle)
    promql_parser.parse(prometheus["query"])
    assert set(METRIC.findall(prometheus["query"])) <= exported()


def test_kubernetes_settings_are_those_of_the_programs() -> None:
    found = {(item["kind"], item["metadata"]["name"]): item for item in manifests()}
    environ = {**found["ConfigMap", "redux-pool"]["data"], **found["Secret", "redux-pool"]["stringData"]}
    read = load("pool.settings").load_pool_settings(environ)
    used = {name for name in environ if name.startswith("REDUX_POOL_")}
    known = {f"REDUX_POOL_{name.upper()}" for name in read.__dataclass_fields__}
    assert used <= known and read.job_seconds == 600
    worker = found["Deployment", "redux-worker"]["spec"]["template"]["spec"]
    assert worker["terminationGracePeriodSeconds"] > read.job_seconds + load("pool.settings").GRACE_SECONDS
    for container in (
        worker["containers"][0],
        *found["StatefulSet", "redux-gateway"]["spec"]["template"]["spec"]["containers"],
    ):
        flags = [part for part in container["args"] if part.startswith("--")]
        assert knows(container["command"][2], flags)


def knows(module: str, flags: Sequence[str]) -> bool:
    """Whether a program's own help names all of these."""
    told = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return all(flag in told.stdout for flag in flags)


def units() -> list[Path]:
    return sorted((DEPLOY / "systemd").glob("redux-*"))


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """With this checkout in the place of /opt/redux, since systemd looks whether a program is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian's package systemd); the units are not verified.")
    for path in units():
        text = path.read_text("utf-8").replace("/opt/redux/.venv/bin/python", sys.executable)
        (tmp_path / path.name).write_text(text, "utf-8")
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, tmp_path.glob("redux-*"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "redux-" in line]
    assert (done.returncode, told) == (0, [])
    (tmp_path / "redux-more.timer").write_text("[Timer]\nOnActiveSecond=1\n", "utf-8")
    assert "OnActiveSecond" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_systemd_settings_are_those_of_the_programs() -> None:
    lines = (DEPLOY / "systemd" / "pool.env").read_text("utf-8").splitlines()
    environ = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    load("pool.settings").load_pool_settings(environ)
    known = {f"REDUX_POOL_{name.upper()}" for name in load("pool.settings").PoolSettings.__dataclass_fields__}
    assert {name for name in environ if name.startswith("REDUX_POOL_")} <= known
    for path in units():
        for command in re.findall(r"^Exec\w+=\S+ -m (.*)$", path.read_text("utf-8"), re.MULTILINE):
            module, *arguments = command.split()
            assert knows(module, [part for part in arguments if part.startswith("--")])
        for name in re.findall(r"\$\{(\w+)\}", path.read_text("utf-8")):
            assert name in environ
    worker = (DEPLOY / "systemd" / "redux-worker.service").read_text("utf-8")
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", worker, re.MULTILINE)
    settings = load("pool.settings")
    assert int(stop) >= settings.PoolSettings("", "").job_seconds + settings.GRACE_SECONDS


def exported() -> set[str]:
    """The names of all series that a gateway has, with the endings that Prometheus' own format adds."""
    source = (ROOT / "api" / "pool" / "metrics.py").read_text("utf-8")
    names = re.findall(r'(\w+)\(\s*"(redux_\w+)"', source)
    ends = {"CounterMetricFamily": ("_total",), "GaugeMetricFamily": ("",)}
    return {name + end for kind, name in names for end in ends.get(kind, ("_bucket", "_sum", "_count"))}


def test_the_dashboard_asks_for_what_there_is() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))
    panels = dashboard["panels"]
    asked = set[str]()
    for panel in panels:
        assert panel["title"] and panel["description"] and panel["targets"]
        for target in panel["targets"]:
            promql_parser.parse(target["expr"])
            asked |= set(METRIC.findall(target["expr"]))
    assert asked <= exported()
    shown = {
        "jobs",
        "wait_seconds_bucket",
        "run_seconds_sum",
        "busy_seconds_total",
        "jobs_ended_total",
        "retries_total",
    }
    assert {f"redux_pool_{name}" for name in shown} <= asked
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in cells_of(panel["gridPos"])]
    assert len(set(cells)) == len(cells) and all(0 <= x < 24 for x, _ in cells)


def cells_of(place: dict[str, int]) -> list[tuple[int, int]]:
    columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
    return [(x, y) for x in columns for y in rows]


class Told(http.server.BaseHTTPRequestHandler):
    """A gateway's /health with the ages of waiting jobs that a test says."""

    ages: Sequence[float] = ()
    status = "ok"

    def do_GET(self) -> None:
        jobs = [{"queue": "q", "state": "queued", "count": 1, "oldest": age} for age in self.ages]
        jobs.append({"queue": "q", "state": "running", "count": 1, "oldest": 9999.0})
        good = self.headers["Authorization"] == "Bearer watch"
        self.send_response(200 if good else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"status": self.status, "jobs": jobs}).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def told() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def demand(url: str, *arguments: str, key: str = "watch") -> int:
    command = [sys.executable, "-m", "api.pool.demand", "--gateway", url, *arguments]
    environ = {"REDUX_POOL_WATCH_KEYS": f"{key},other", "PATH": ""}
    return subprocess.run(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL, check=False).returncode


def test_the_signal_for_another_host(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for ages, waiting, idle in (((), 1, 0), ((5.0, 29.0), 1, 1), ((5.0, 31.0), 0, 1)):
        monkeypatch.setattr(Told, "ages", ages)
        assert (demand(told, "--waiting", "30"), demand(told, "--idle")) == (waiting, idle)
    assert demand(told, "--idle", key="wrong") == demand("http://127.0.0.1:9", "--idle") == 255
    monkeypatch.setattr(Told, "status", "down")
    assert demand(told, "--idle") == 255
