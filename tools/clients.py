"""The vendors' official clients, for the tests: each in a folder of its own below .venv/clients, fetched once by name,
version and, from npm, checksum.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .errors import ToolError
from .host import ROOT, explain_failure
from .index import uv_environ

FOLDER = ROOT / ".venv" / "clients"
NPM = ROOT / "tests" / "api" / "clients"


def ensure_python(package: str, version: str) -> Path:
    """The folder, for PYTHONPATH, of one version of a package of PyPI, with what it needs.

    Raises:
        ToolError: it cannot be fetched.
    """
    folder = FOLDER / f"{package}-{version}"
    if not folder.exists():
        environ = {**os.environ, **uv_environ(sys.executable)}
        command = [sys.executable, "-m", "uv", "pip", "install", "--prerelease", "allow", f"{package}=={version}"]
        _fetch(folder, [*command, "--target"], environ)
    return folder


def ensure_npm() -> Path:
    """The folder that holds node_modules with the versions of tests/api/clients/package-lock.json.

    Raises:
        ToolError: they cannot be fetched, or npm is not installed.
    """
    lock = (NPM / "package-lock.json").read_text("utf-8")
    folder = FOLDER / "npm"
    if not folder.exists() or (folder / "package-lock.json").read_text("utf-8") != lock:
        npm = shutil.which("npm")
        if npm is None:
            raise ToolError("npm is not installed; it fetches the vendors' JavaScript clients.")
        shutil.rmtree(folder, ignore_errors=True)
        _fetch(folder, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"], dict(os.environ), NPM)
    return folder


def _fetch(folder: Path, command: list[str], environ: dict[str, str], files: Path | None = None) -> None:
    """Fill a folder, or leave none: `command` is given a new one, with the package files of `files` in it."""
    # npm takes a path that holds a link for another package.
    partial = folder.parent.resolve() / f"{folder.name}.{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    for path in files.glob("package*.json") if files else ():
        shutil.copy(path, partial)
    try:
        done = subprocess.run([*command, str(partial)], capture_output=True, text=True, env=environ, check=False)
        if done.returncode:
            raise ToolError(explain_failure(folder.name, done.stdout + done.stderr, ROOT))
        if not folder.exists():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
