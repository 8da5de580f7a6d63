"""Every check of this project, each a session; all of them run, one verdict.

`make lint`, `make test`, `make test-all` and `make test-gpu` run those with that tag, `make test-TIER` a single
session of the tests, in the environments that tools/bootstrap.py provides; .venv/bin/nox --list names them all. What
stands behind -- (make's ARGS) goes to pytest: make test-host ARGS="-k strength".
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from tools import bootstrap, host  # noqa: E402
from tools.errors import ToolError  # noqa: E402
from tools.index import uv_environ  # noqa: E402
from tools.server import has_gpu  # noqa: E402

CODE = ["redux", "nodes", "api", "convert", "tools", "benchmarks", "miniature", "tests", "__init__.py", "noxfile.py"]
TYPED = ["redux", "nodes", "api", "convert", "tools"]
# What `make test` runs on the oldest torch: the kernels, the pictures, and references in a sampling.
OLDEST = {
    "library": ("attention", "attention_backends", "fits", "graph", "mix", "pictures", "preview", "tokens"),
    "host": ("host_works", "nodes", "strength", "region", "influence"),
}
# Where nothing else is asked for, the tiers that only compute run in a process of one thread for each core.
WORKERS = str(min(4, os.cpu_count() or 1))
LINT = ["lint", "test", "test-all", "test-gpu"]
NO_TESTS = 5  # pytest's exit status when it found none

nox.options.default_venv_backend = "none"
nox.options.tags = ["test"]


def python(session: nox.Session, *command: str, program: str | Path = sys.executable, **environ: str) -> None:
    """Run a module, with time for its clean-up after Ctrl-C. A selection of tests may leave a tier without any."""
    codes = [0, NO_TESTS] if session.posargs else [0]
    session.run(
        str(program), "-m", *command, env=environ, success_codes=codes, interrupt_timeout=30, terminate_timeout=30
    )


def spread() -> tuple[list[str], dict[str, str]]:
    """pytest's arguments and the environment that spread a tier's files over processes. A GPU is one process's."""
    if has_gpu():
        return [], {}
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return ["-n", "auto", "--dist", "loadfile"], {"PYTEST_XDIST_AUTO_NUM_WORKERS": WORKERS, "OMP_NUM_THREADS": threads}


@nox.session(tags=LINT)
def ruff(session: nox.Session) -> None:
    """Linter."""
    session.run(sys.executable, "-m", "ruff", "check", *CODE)


@nox.session(name="format", tags=LINT)
def layout(session: nox.Session) -> None:
    """Format of the code; `.venv/bin/ruff format` mends it."""
    session.run(sys.executable, "-m", "ruff", "format", "--check", *CODE)


@nox.session(tags=LINT)
def mypy(session: nox.Session) -> None:
    """Types. A package's name is that of its folder, which a clone's may not suit: a link has one that does."""
    folder = ROOT / ".nox"
    folder.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        (folder / "redux_control").symlink_to(ROOT, target_is_directory=True)
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    session.chdir(folder)
    session.run(sys.executable, "-m", "mypy", *options, *(f"redux_control/{name}" for name in TYPED))


@nox.session(tags=["test", "test-all", "test-gpu"])
def library(session: nox.Session) -> None:
    """The library, the tools and the miniature, without ComfyUI."""
    options, environ = spread()
    python(session, "pytest", "tests/library", *options, *session.posargs, **environ)


def oldest(tier: str, files: list[str], name: str, tag: str) -> None:
    @nox.session(name=name, tags=[tag])
    def run(session: nox.Session) -> None:
        program = bootstrap.venv_python(ROOT / bootstrap.OLDEST_VENV)
        python(session, "pytest", *files, *session.posargs, program=program)

    run.__doc__ = f"{tier} on the oldest torch."


for _tier, _names in OLDEST.items():
    oldest(_tier, [f"tests/{_tier}/test_{name}.py" for name in _names], f"{_tier}-oldest", "test")
    oldest(_tier, [f"tests/{_tier}"], f"{_tier}-oldest-all", "test-all")


def on_host(tier: str, version: str, tags: list[str]) -> None:
    @nox.session(name=f"{tier}-{version}" if version else tier, tags=tags)
    def run(session: nox.Session) -> None:
        try:
            own = None if version else host.find_own()
        except ToolError as error:
            session.error(str(error))
        if own is not None:
            session.log(f"ComfyUI {own.version} at {own.path}")
        chosen = version or os.environ.get("REDUX_HOST", "")
        options, environ = spread() if tier == "host" else ([], {})
        python(session, "pytest", f"tests/{tier}", *options, *session.posargs, REDUX_HOST=chosen, **environ)

    run.__doc__ = f"tests/{tier} on ComfyUI {version or '(yours, or the newest known)'}."


for _version in ("", *host.RELEASES):
    for _tier in ("host", "server", "api"):
        _tags = ["test", *(["test-gpu"] if _tier == "host" else [])]
        on_host(_tier, _version, ["test-all"] if _version else _tags)


@nox.session(name="newest-page", tags=["test-all"])
def newest_page(session: nox.Session) -> None:
    """The pack on a newer page than the newest known ComfyUI asks for."""
    files = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "server").glob("*page*.py"))]
    python(session, "pytest", *files, *session.posargs, REDUX_PAGE=host.NEWEST_PAGE)


@nox.session(tags=["test", "test-all"])
def pool(session: nox.Session) -> None:
    """The endpoints over several machines."""
    python(session, "pytest", "tests/pool", *session.posargs)


@nox.session(tags=["test-gpu"])
def gpu(session: nox.Session) -> None:
    """A picture under each of ComfyUI's options, on a GPU."""
    python(session, "tools.gpu")


@nox.session(tags=[])
def lock(session: nox.Session) -> None:
    """Renew tools/locks. `--no-upgrade` adds only what pyproject.toml asks for anew."""
    comfy = host.ensure(host.NEWEST)
    # A lock is for every machine, so what one machine's pip has beside its index does not come in.
    environ = uv_environ(sys.executable)
    environ = {key: value for key, value in environ.items() if key not in ("UV_INDEX", "UV_FIND_LINKS")}
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10"]
    command += ["--no-annotate", "--custom-compile-command", "make lock", *(session.posargs or ["--upgrade"])]
    for name in ("test", "host", "make", "oldest"):
        path = ROOT / bootstrap.LOCKS / f"{name}.txt"
        more = ["--constraint", str(path.with_name("test.txt"))] if name in ("host", "make") else []
        more += [str(comfy.requirements)] if name != "make" else []
        session.run(*command, "--output-file", str(path), "--group", name, *more, env=environ)
