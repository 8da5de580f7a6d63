"""The environments that `make` provides: what they are made of, and that nothing leaves a broken one behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from tools import bootstrap, index
from tools.errors import ToolError

ROOT = Path(__file__).resolve().parents[2]
SAYS = "import tiny; print(tiny.VERSION)"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose .venv is that of these tests, with a lock and an index (a folder) of a package `tiny`."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / bootstrap.LOCKS).mkdir(parents=True)
    for version in ("1", "2"):
        with zipfile.ZipFile(tmp_path / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("tiny.py", f"VERSION = {version}\n")
            wheel.writestr(
                f"tiny-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n"
            )
            wheel.writestr(
                f"tiny-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"tiny-{version}.dist-info/RECORD", "")
    for name, value in {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path), "UV_NO_CACHE": "1"}.items():
        monkeypatch.setenv(name, value)
    pin(tmp_path, "tiny==1")
    return tmp_path


def pin(checkout: Path, text: str, lock: str = "oldest") -> None:
    (checkout / bootstrap.LOCKS / f"{lock}.txt").write_text(text + "\n")


def provide(checkout: Path, more: str = "") -> str:
    """Make .second of the lock `oldest`; returns what is then installed in it."""
    bootstrap.provide(".second", "oldest", checkout, more)
    return ask(checkout)


def ask(checkout: Path) -> str:
    python = str(bootstrap.venv_python(checkout / ".second"))
    return subprocess.run([python, "-c", SAYS], capture_output=True, text=True, check=True).stdout.strip()


def test_made_once_and_brought_to_a_new_lock(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provide(checkout) == "1"
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_install", lambda *_: pytest.fail("it is there"))
        assert provide(checkout) == "1"
    kept = checkout / ".second" / "of-the-user"
    kept.touch()
    pin(checkout, "tiny==2")
    assert provide(checkout) == "2"
    assert kept.exists()


def test_what_the_users_comfyui_needs_has_the_last_word(checkout: Path) -> None:
    assert provide(checkout, "tiny>1\n") == "2"
    assert provide(checkout) == "1"


def test_what_cannot_be_fetched_is_one_sentence_and_spoils_nothing(checkout: Path) -> None:
    assert provide(checkout) == "1"
    pin(checkout, "tiny==2\nmissing==1")
    for _ in range(2):
        with pytest.raises(ToolError, match="the oldest torch") as caught:
            provide(checkout)
        assert "\n" not in str(caught.value)
        assert ask(checkout) == "1"
    pin(checkout, "tiny==1")
    assert provide(checkout) == "1"


def test_an_interrupted_one_is_made_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of which some files are missing passes for installed; nothing but the missing record tells."""
    provide(checkout)

    def interrupt(*_: object) -> None:
        next((checkout / ".second").rglob("tiny.py")).unlink()
        raise KeyboardInterrupt

    pin(checkout, "tiny==1\n# renewed")
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_install", interrupt)
        with pytest.raises(KeyboardInterrupt):
            provide(checkout)
    assert provide(checkout) == "1"


def test_two_first_runs_at_once(checkout: Path) -> None:
    code = f"""
from pathlib import Path
from tools import bootstrap
root = Path({str(checkout)!r})
with bootstrap.only_one(root):
    bootstrap.provide(".second", "oldest", root)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)]
    said = [run.communicate(timeout=300)[1].count(b"Making") for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sum(said) == 1
    assert ask(checkout) == "1"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no lock")
def test_an_installer_that_outlives_its_parent_is_waited_for(tmp_path: Path) -> None:
    started, go, done = (tmp_path / name for name in ("started", "go", "done"))
    installer = f"import os, time; open({str(started)!r}, 'w')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)"
    installer += f"\nopen({str(done)!r}, 'w')"
    code = f"""
import sys
from pathlib import Path
from tools import bootstrap
root = Path({str(tmp_path)!r})
with bootstrap.only_one(root):
    bootstrap._install("it", [sys.executable, "-c", {installer!r}], root)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not started.exists():
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert not done.exists()
    threading.Timer(0.5, go.touch).start()
    with bootstrap.only_one(tmp_path):
        assert done.exists()


def test_the_demo_is_content_with_what_the_tests_need(checkout: Path) -> None:
    pin(checkout, "tiny==1", "host")
    pin(checkout, "tiny==2", "test")
    bootstrap.provide(".second", "host", checkout)
    assert ask(checkout) == "1"
    bootstrap.provide(".second", "test", checkout)
    bootstrap.provide(".second", "host", checkout)
    assert ask(checkout) == "2"


def test_an_old_python_is_told_so() -> None:
    code = "import sys; sys.version_info = (3, 8); exec(open('tools/bootstrap.py').read())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "this is Python 3.8; 3.10 or newer is needed" in done.stderr


def test_pip_settings_for_uv() -> None:
    config = "\n".join(
        [
            ":env:.cert='/etc/ca.pem'",
            "global.index-url='https://one/simple'",
            "global.extra-index-url='https://two/simple\\nhttps://three/simple'",
            "install.index-url='https://four/simple'",
            "global.find-links='/a /b'",
        ]
    )
    assert index.translate(config, {"UV_FIND_LINKS": "kept"}) == {
        "UV_DEFAULT_INDEX": "https://four/simple",
        "UV_INDEX": "https://two/simple https://three/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": "/etc/ca.pem",
    }
    assert index.translate("", {}) == {}
