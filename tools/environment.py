"""The Python environment .venv: made once, checked by a stamp in milliseconds, remade when its inputs change.

It holds the requirements of one ComfyUI with a torch that suits it, and for the tests those of pyproject.toml's group
`test`. Runs on the standard library alone, in the system's Python.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import host
from .errors import ToolError

# torchaudio has not followed torch further; this is the newest set in which every tested ComfyUI starts.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
INSTALLERS = ("pip", "uv", "wheel", "setuptools>=69,<82")
MODULES = {"demo": "tools.demo", "serve": "tools.serve", "lint": "tools.check", "test": "tools.check"}
MODULES["test-all"] = "tools.check"


def prepare(command: str, environ: Mapping[str, str] = os.environ, root: Path = host.ROOT) -> str:
    """Provide a host and an environment for a `command` of MODULES; returns the Python to run it with.

    The demo runs in the Python of the user's own ComfyUI where there is one: nothing is installed then.

    Raises:
        ToolError: something is missing on this machine; one sentence.
    """
    with _only_one(root):
        own = host.find_own(environ, root)
        if own is not None and command in ("demo", "serve"):
            python = find_own_python(own, environ)
            if python is not None:
                return python
        python = _ensure_venv(root)
        comfy = host.ensure(environ.get("REDUX_HOST") or None, environ, root, python)
        if command == "test-all":
            for version in host.RELEASES:
                host.ensure(version, environ, root, python)
        requirements = comfy.requirements.read_text("utf-8")
        _ensure_layer(root, "host", ["-r", str(comfy.requirements), *TORCH], requirements)
        if command in ("lint", "test", "test-all"):
            group = test_requirements((root / "pyproject.toml").read_text("utf-8"))
            _ensure_layer(root, "test", [*group, *TORCH], requirements)
        return python


def find_own_python(own: host.Host, environ: Mapping[str, str] = os.environ) -> str | None:
    """COMFYUI_PYTHON, or the virtual environment that lies in or beside the user's ComfyUI; None if there is none.

    Raises:
        ToolError: COMFYUI_PYTHON is no program.
    """
    named = environ.get("COMFYUI_PYTHON")
    if named:
        path = Path(named).expanduser().absolute()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise ToolError(f"COMFYUI_PYTHON is {named}, which is no program; name the Python of {own.path}.")
        return str(path)
    folders = [own.path / ".venv", own.path / "venv", own.path.parent / "python_embeded"]
    programs = ("bin/python", "Scripts/python.exe", "python.exe")
    return next((str(folder / name) for folder in folders for name in programs if (folder / name).exists()), None)


def test_requirements(pyproject: str) -> list[str]:
    """The list `test` of [dependency-groups]. (tomllib came with Python 3.11.)"""
    match = re.search(r"^\[dependency-groups\].*?^test\s*=\s*(\[.*?\])\s*$", pyproject, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ToolError("pyproject.toml has no list 'test' in [dependency-groups].")
    return list(ast.literal_eval(match[1]))


def uv_settings(pip_config: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables that make uv use the index of pip's configuration (the text of `pip config list`)."""
    pip: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for line in pip_config.splitlines():
            match = re.match(rf"{section}\.([\w-]+)=('.*'|\".*\")$", line)
            if match:
                pip[match[1]] = str(ast.literal_eval(match[2]))
    names = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "trusted-host": "UV_INSECURE_HOST"}
    names |= {"cert": "SSL_CERT_FILE", "find-links": "UV_FIND_LINKS", "proxy": "ALL_PROXY"}
    found = {uv: " ".join(pip[key].split()) for key, uv in names.items() if pip.get(key)}
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = found["UV_FIND_LINKS"].replace(" ", ",")
    if "UV_INDEX" in found:
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # what pip does with several indexes
    return {key: value for key, value in found.items() if key not in environ}


def venv_python(root: Path = host.ROOT) -> Path:
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _ensure_venv(root: Path) -> str:
    python, stamp = venv_python(root), root / ".venv" / "redux-installers.stamp"
    key = _key(*INSTALLERS)
    if python.exists() and stamp.exists() and stamp.read_text() == key:
        return str(python)
    version = ".".join(str(part) for part in sys.version_info[:2])
    if not python.exists() or _run([str(python), "-m", "pip", "--version"]).returncode:
        print(f"Making .venv with Python {version} ...", file=sys.stderr, flush=True)
        # The base interpreter, for the case that this runs in the very .venv that is to be made again.
        base = getattr(sys, "_base_executable", sys.executable)
        done = _run([base, "-m", "venv", "--clear", str(root / ".venv")])
        if done.returncode and "ensurepip" in done.stdout + done.stderr:
            raise ToolError(f"Python {version} has no venv module; install it, e.g. apt install python{version}-venv.")
        if done.returncode:
            raise ToolError(host.explain_failure("a virtual environment", done.stdout + done.stderr, root))
    done = _run([str(python), "-m", "pip", "install", "--quiet", "--retries=2", "--upgrade", *INSTALLERS])
    if done.returncode:
        raise ToolError(host.explain_failure("uv", done.stderr, root))
    stamp.write_text(key)
    return str(python)


def _ensure_layer(root: Path, layer: str, arguments: Sequence[str], inputs: str) -> None:
    """Install `arguments` unless the stamp says that it was done with the same ones and the same `inputs`."""
    stamp = root / ".venv" / f"redux-{layer}.stamp"
    key = _key(*arguments, inputs)
    if stamp.exists() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    what = "ComfyUI's requirements" if layer == "host" else "what the tests need"
    python, log = str(venv_python(root)), root / ".venv" / f"redux-{layer}.log"
    config = _run([python, "-m", "pip", "config", "list"]).stdout
    uv = [python, "-m", "uv", "pip", "install", "--python", python, *arguments]
    if _install(what, uv, log, {**os.environ, **uv_settings(config)}):
        failed = log.read_text("utf-8", "replace")
        full = "is full" in host.explain_failure(what, failed, root)
        # uv reads less of pip's configuration than pip itself does, so pip has the last word.
        pip = [python, "-m", "pip", "install", "--retries=1", *arguments]
        if full or _install(f"{what} with pip", pip, log, dict(os.environ)):
            raise ToolError(host.explain_failure(what, log.read_text("utf-8", "replace"), root))
    stamp.write_text(key)


def _install(what: str, command: Sequence[str], log: Path, environ: dict[str, str]) -> int:
    """Run an installer with its output in `log`, and show that it is alive."""
    start, live = time.monotonic(), sys.stderr.isatty()
    print(f"Installing {what} (log: {log}) ...", end="" if live else "\n", file=sys.stderr, flush=True)
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environ)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if live:
                    seconds = time.monotonic() - start
                    print(f"\rInstalling {what} ... {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        finally:
            if live:
                print("\033[K", file=sys.stderr)
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Let one process at a time prepare a checkout. The lock goes with the process, whatever ends it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def main() -> None:
    command, *arguments = sys.argv[1:] or ["help"]
    if command not in MODULES:
        sys.exit(f"usage: bootstrap.py {'|'.join(MODULES)} [arguments]")
    try:
        python = prepare(command)
    except ToolError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: The environment cannot be made: {error.strerror or error} ({error.filename}).")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")
    if MODULES[command] == "tools.check":
        arguments = [command, *arguments]
    os.chdir(host.ROOT)
    sys.stderr.flush()
    os.execv(python, [python, "-m", MODULES[command], *arguments])


if __name__ == "__main__":
    main()
