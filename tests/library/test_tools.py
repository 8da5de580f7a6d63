"""What `make` runs, as far as it needs no ComfyUI: finding hosts, stamps, errors, a server that never outlives us."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools import environment, host, workflow  # noqa: E402
from tools.errors import ToolError  # noqa: E402
from tools.server import Server, free_port, last_error  # noqa: E402
from tools.sheet import Cell, Row, contact_sheet  # noqa: E402

# Answers as ComfyUI does while it starts up, and no more; `--mode` makes it fail in the ways that ComfyUI may.
FAKE_MAIN = """
import http.server, sys, time
port, mode = int(sys.argv[sys.argv.index("--port") + 1]), sys.argv[-1]
if mode == "die":
    print("loading")
    raise ImportError("no module of that kind")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path == "/system_stats" or mode != "no-pack"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"found": true}' if found else b"{}")
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def make_comfyui(path: Path, version: str = "0.30.0", main: str = FAKE_MAIN) -> Path:
    path.mkdir(parents=True)
    (path / "main.py").write_text(main)
    (path / "folder_paths.py").write_text("")
    (path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    (path / "models" / "clip_vision").mkdir(parents=True)
    return path


class TestHost:
    def test_named_by_comfyui_path(self, tmp_path: Path) -> None:
        path = make_comfyui(tmp_path / "mine", "0.27.1")
        assert host.ensure(None, {"COMFYUI_PATH": str(path)}, tmp_path) == host.Host(path, "0.27.1", own=True)

    def test_pack_stands_in_custom_nodes(self, tmp_path: Path) -> None:
        path = make_comfyui(tmp_path / "mine")
        assert host.find_own({}, path / "custom_nodes" / "any-name") == host.Host(path, "0.30.0", own=True)
        assert host.find_own({}, path / "other" / "any-name") is None

    def test_no_comfyui(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match="COMFYUI_PATH is .*, which is no ComfyUI"):
            host.find_own({"COMFYUI_PATH": str(tmp_path)}, tmp_path)

    @pytest.mark.parametrize("version", ["0.3.75", "0.17.9"])
    def test_too_old(self, version: str, tmp_path: Path) -> None:
        path = make_comfyui(tmp_path / "mine", version)
        with pytest.raises(ToolError, match=f"ComfyUI {version} .*; 0.18 or newer is needed"):
            host.find_own({"COMFYUI_PATH": str(path)}, tmp_path)

    def test_asked_version_wins_over_the_users_own(self, tmp_path: Path) -> None:
        own, kept = make_comfyui(tmp_path / "mine"), make_comfyui(tmp_path / "hosts" / "0.18.0" / "ComfyUI", "0.18.0")
        environ = {"COMFYUI_PATH": str(own), "REDUX_HOSTS_DIR": str(tmp_path / "hosts")}
        assert host.ensure("0.18.0", environ, tmp_path) == host.Host(kept, "0.18.0", own=False)

    def test_unknown_version(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match=r"No source is known for ComfyUI 9\.9; known are 0\.30\.0"):
            host.ensure("9.9", {}, tmp_path)

    def test_failed_fetch_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        with pytest.raises(ToolError, match="The package index does not have ComfyUI 0.18.0") as caught:
            host.ensure("0.18.0", {"REDUX_HOSTS_DIR": str(tmp_path)}, tmp_path)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("error: Failed to fetch: `https://x/`\n  Caused by: dns error\n", "No package index can be reached"),
        ("ERROR: [Errno 28] No space left on device\n", "is full"),
        ("ERROR: No matching distribution found for torch==2.11.0\n", "does not have"),
        ("ERROR: something new\n[notice] upgrade pip\n", "failed: ERROR: something new"),
        ("", "the installer said nothing"),
    ],
)
def test_installer_failures_become_sentences(output: str, sentence: str, tmp_path: Path) -> None:
    message = host.explain_failure("torch", output, tmp_path)
    assert sentence in message
    assert "torch" in message
    assert "\n" not in message


class TestEnvironment:
    def test_pip_settings_for_uv(self) -> None:
        config = "\n".join(
            [
                ":env:.cert='/etc/ca.pem'",
                "global.index-url='https://one/simple'",
                "global.extra-index-url='https://two/simple\\nhttps://three/simple'",
                "install.index-url='https://four/simple'",
                "global.find-links='/a /b'",
            ]
        )
        assert environment.uv_settings(config, {"UV_FIND_LINKS": "kept"}) == {
            "UV_DEFAULT_INDEX": "https://four/simple",
            "UV_INDEX": "https://two/simple https://three/simple",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "SSL_CERT_FILE": "/etc/ca.pem",
        }
        assert environment.uv_settings("", {}) == {}

    def test_requirements_of_the_tests(self) -> None:
        found = environment.test_requirements((ROOT / "pyproject.toml").read_text("utf-8"))
        tomllib = pytest.importorskip("tomllib")
        assert found == tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]["test"]

    def test_a_layer_is_installed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ran: list[str] = []
        monkeypatch.setattr(environment, "_install", lambda what, *_: ran.append(what) or 0)
        monkeypatch.setattr(environment, "_run", lambda _: subprocess.CompletedProcess([], 0, "", ""))
        (tmp_path / ".venv").mkdir()
        for inputs in ("a", "a", "b", "b", "a"):
            environment._ensure_layer(tmp_path, "host", ["torch"], inputs)
        assert len(ran) == 3

    def test_a_failed_layer_is_not_stamped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "_install", lambda what, command, log, _: log.write_text("ERROR: no") and 1)
        monkeypatch.setattr(environment, "_run", lambda _: subprocess.CompletedProcess([], 0, "", ""))
        (tmp_path / ".venv").mkdir()
        with pytest.raises(ToolError, match="ERROR: no"):
            environment._ensure_layer(tmp_path, "host", ["torch"], "a")
        assert not list((tmp_path / ".venv").glob("*.stamp"))

    def test_python_of_the_users_comfyui(self, tmp_path: Path) -> None:
        own = host.Host(make_comfyui(tmp_path / "mine"), "0.30.0", own=True)
        assert environment.find_own_python(own, {}) is None
        python = own.path / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        assert environment.find_own_python(own, {}) == str(python)
        assert environment.find_own_python(own, {"COMFYUI_PYTHON": sys.executable}) == sys.executable
        with pytest.raises(ToolError, match="COMFYUI_PYTHON is .*, which is no program"):
            environment.find_own_python(own, {"COMFYUI_PYTHON": str(tmp_path)})

    def test_an_old_python_is_told_so(self) -> None:
        code = "import sys; sys.version_info = (3, 8); exec(open('tools/bootstrap.py').read())"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.strip().count("\n") == 0
        assert "this is Python 3.8; 3.10 or newer is needed" in done.stderr


class TestServer:
    def serve(self, tmp_path: Path, mode: str = "", port: int = 0, own: bool = False) -> Server:
        path = make_comfyui(tmp_path / "ComfyUI")
        return Server(host.Host(path, "0.30.0", own), tmp_path / "base", port=port, arguments=[mode])

    def test_starts_and_stops(self, tmp_path: Path) -> None:
        with self.serve(tmp_path) as server:
            process = server.process
            assert process is not None and process.poll() is None
            assert (tmp_path / "base" / "custom_nodes" / "redux-control").resolve() == ROOT
        assert process.poll() is not None
        assert server.explain_end() is not None

    def test_early_death_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match="ended at its start: ImportError: no module of that kind") as caught:
            self.serve(tmp_path, "die").start()
        assert "\n" not in str(caught.value)

    def test_a_server_without_the_pack_is_refused_and_stopped(self, tmp_path: Path) -> None:
        server = self.serve(tmp_path, "no-pack")
        with pytest.raises(ToolError, match="runs without this pack"):
            server.start()
        assert server.process is None
        assert connects(server.port) is False

    def test_a_taken_port(self, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            with pytest.raises(ToolError, match=r"Port \d+ is taken"):
                self.serve(tmp_path, port=other.getsockname()[1]).start()

    def test_a_port_taken_meanwhile_is_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            ports = [other.getsockname()[1], free_port()]
            # The other one answers nothing, so only the child's own complaint tells that the port is taken.
            monkeypatch.setattr("tools.server.free_port", lambda: ports.pop(0))
            monkeypatch.setattr("tools.server.Server._get", alive_after_its_log)
            with self.serve(tmp_path) as server:
                assert ports == []
                assert server.process is not None and server.process.poll() is None

    def test_the_models_of_the_user_are_listed(self, tmp_path: Path) -> None:
        server = self.serve(tmp_path, own=True)
        (tmp_path / "base").mkdir()
        listed = json.loads(server._list_own_models().read_text())["own"]
        assert listed == {"base_path": str(tmp_path / "ComfyUI" / "models"), "clip_vision": "clip_vision/"}
        assert not (tmp_path / "ComfyUI" / "custom_nodes").exists()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
    def test_never_outlives_its_parent(self, number: signal.Signals, tmp_path: Path) -> None:
        make_comfyui(tmp_path / "ComfyUI")
        code = f"""
import sys, time
from collections.abc import Callable
from pathlib import Path
from tools.host import Host
from tools.server import Server
base = Path({str(tmp_path)!r})
with Server(Host(base / "ComfyUI", "0.30.0", False), base / "base", arguments=[""]) as server:
    print(server.port, flush=True)
    time.sleep(60)
"""
        parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert parent.stdout is not None
            port = int(parent.stdout.readline())
            assert connects(port)
            parent.send_signal(number)
            parent.wait(10)
            assert within(5, lambda: not connects(port))
        finally:
            parent.kill()
            parent.wait()


def test_the_telling_line_of_a_log() -> None:
    log = "Starting\nTraceback (most recent call last):\n  x\nValueError: bad value\nShutting down\n"
    assert last_error(log) == "ValueError: bad value"
    assert last_error("usage: x\nmain.py: error: unrecognized arguments: --y\n") == (
        "main.py: error: unrecognized arguments: --y"
    )
    assert last_error("Starting\n\n") == "Starting"
    assert last_error("") == "it wrote nothing"


class TestWorkflow:
    graph: workflow.Workflow = {
        "1": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "a", "clip_name2": "b", "type": "flux"}},
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
        "3": {"class_type": "EmptySD3LatentImage", "inputs": {"width": ["9", 0], "height": 1024, "batch_size": 1}},
    }

    def test_the_original_stays(self) -> None:
        before = json.dumps(self.graph)
        names = dict.fromkeys(("clip_vision", "style_models", "diffusion_models", "vae"), "x") | {"text_encoders": "w"}
        changed = workflow.shrink(workflow.set_seed(workflow.use_models(self.graph, names), 7), 128, 2)
        assert json.dumps(self.graph) == before
        assert changed["1"] == {"class_type": "ReduxMiniatureText", "inputs": {"words_name": "w"}}
        assert changed["2"]["inputs"] == {"noise_seed": 7}
        assert changed["3"]["inputs"] == {"width": ["9", 0], "height": 128, "batch_size": 1}

    @pytest.mark.parametrize("spec", [[["a", "c"]], ["COMBO", {"options": ["a", "c"]}]], ids=["old", "new"])
    def test_values_that_a_server_does_not_offer(self, spec: list[object]) -> None:
        info = {"DualCLIPLoader": {"input": {"required": {"clip_name1": spec, "clip_name2": spec}}}}
        assert list(workflow.missing_choices(self.graph, info)) == [("DualCLIPLoader", "clip_name2", "b")]

    def test_what_is_no_workflow(self, tmp_path: Path) -> None:
        path = tmp_path / "ui.json"
        path.write_text('{"nodes": [], "links": []}')
        with pytest.raises(ToolError, match="no workflow in API format"):
            workflow.read(path)
        path.write_text("{")
        with pytest.raises(ToolError, match="is no JSON"):
            workflow.read(path)
        with pytest.raises(ToolError, match="cannot be read: No such file"):
            workflow.read(tmp_path / "none.json")


def test_contact_sheet_shows_every_picture() -> None:
    colours = [(200, 30, 30), (30, 160, 30), (30, 30, 200)]
    cells = [
        Cell(Image.new("RGB", size, colour)) for size, colour in zip([(8, 8), (64, 16), (16, 64)], colours, strict=True)
    ]
    sheet = contact_sheet([Row("a long caption that needs several lines", cells), Row("", cells[:1])], "Title", "note")
    counts = {colour: count for count, colour in sheet.getcolors(1 << 20)}
    assert counts[colours[0]] == 2 * 224 * 224
    assert counts[colours[1]] == counts[colours[2]] == 224 * 56
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], "Title")


def alive_after_its_log(server: Server, _: str) -> object:
    """Stands for an HTTP answer: the process lives on for a moment after its start."""
    time.sleep(0.5)
    return {"found": True} if server.process is not None and server.process.poll() is None else None


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False
