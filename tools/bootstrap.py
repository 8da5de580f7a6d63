"""What the Makefile runs with the system's Python: make the environments that a command needs, then go on in them.

    python3 tools/bootstrap.py demo|serve|serve-pool|soak|TAG|SESSION [arguments]

pip brings nox and uv into .venv, and uv brings all else, exactly as tools/locks has it; tags and sessions are those of
noxfile.py. An environment records what it was made of; one without a record was left half-done, and is made again.
Old Pythons must be able to read this file, or they could not say that they are too old.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036
    found = ".".join(str(part) for part in sys.version_info[:2])
    sys.exit("error: this is Python " + found + "; 3.10 or newer is needed, e.g. make demo PYTHON=python3.12.")

import os
import runpy
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

if not __package__:  # a file so far; from here on it is a part of its package
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module("tools.bootstrap", run_name="__main__")
    sys.exit()

from . import host
from .errors import ToolError
from .index import uv_environ

POOL = "serve-pool"
PROGRAMS = {"demo": "demo", "serve": "serve", POOL: "pool", "soak": "soak"}
TAGS = ("lint", "test", "test-all", "test-gpu")
VENV, OLDEST_VENV = ".venv", ".venv-oldest"
LOCKS = Path("tools", "locks")
NAMES = {"host": "what ComfyUI needs", "test": "what the tests need", "oldest": "the oldest torch"}


def prepare(command: str, environ: Mapping[str, str] = os.environ, root: Path = host.ROOT) -> str:
    """Provide the environments and the hosts of a command; returns the Python to run it with.

    The demo runs in the Python of the user's own ComfyUI where there is one: nothing is installed then.

    Raises:
        ToolError: something is missing on this machine; one sentence.
    """
    with only_one(root):
        asked = environ.get("REDUX_HOST") or None
        own = None if asked else host.find_own(environ, root)
        if own is not None and command in ("demo", "serve"):
            python = find_own_python(own, environ)
            if python is not None:
                return python
        more = own.requirements.read_text("utf-8") if own else ""
        provide(VENV, "host" if command in PROGRAMS and command != POOL else "test", root, more)
        if command in ("test", "test-all") or "oldest" in command:
            provide(OLDEST_VENV, "oldest", root, more)
        python = str(venv_python(root / VENV))
        for version in host.RELEASES if command == "test-all" else [asked]:
            host.ensure(version, environ, root, python)
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


def provide(name: str, lock: str, root: Path = host.ROOT, more: str = "") -> None:
    """Bring the environment `name` to a lock, and then to `more` requirements, unless it is there.

    Raises:
        ToolError: something cannot be fetched; an environment that was whole stays as it was.
    """
    venv, record = root / name, root / name / "made-of.txt"
    enough = (lock, "test") if lock == "host" else (lock,)
    before = record.read_text("utf-8") if record.exists() else None
    if before in [(root / LOCKS / f"{each}.txt").read_text("utf-8") + more for each in enough]:
        return
    if before is None:
        _create(venv, root)
    record.unlink(missing_ok=True)
    pins = (root / LOCKS / f"{lock}.txt").read_text("utf-8")
    uv = [str(venv_python(root / VENV)), "-m", "uv", "pip"]
    to = ["--python", str(venv_python(venv))]
    try:
        _install(NAMES[lock], [*uv, "install", *to, "--no-deps", "-r", str(root / LOCKS / f"{lock}.txt")], venv)
        if more:
            (venv / "more.txt").write_text(more, "utf-8")
            torch = [line for line in pins.splitlines() if line.startswith("torch")]
            _install("what your ComfyUI needs", [*uv, "install", *to, "-r", str(venv / "more.txt"), *torch], venv)
    except ToolError:  # uv changes nothing before it has fetched everything
        if before is not None:
            record.write_text(before, "utf-8")
        raise
    record.write_text(pins + more, "utf-8")


def venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _create(venv: Path, root: Path) -> None:
    """A new environment; .venv gets nox and uv, which serve the other one too."""
    version = ".".join(str(part) for part in sys.version_info[:2])
    print(f"Making {venv.name} with Python {version} ...", file=sys.stderr, flush=True)
    # The base interpreter, for the case that this runs in the very .venv that is to be made again.
    base = getattr(sys, "_base_executable", sys.executable)
    options = ["--without-pip"] if venv.name != VENV else []
    done = subprocess.run([base, "-m", "venv", "--clear", *options, str(venv)], capture_output=True, text=True)
    if done.returncode and "ensurepip" in done.stdout + done.stderr:
        raise ToolError(f"Python {version} has no venv module; install it, e.g. apt install python{version}-venv.")
    if done.returncode:
        raise ToolError(host.explain_failure("a virtual environment", done.stdout + done.stderr, venv.parent))
    if venv.name == VENV:
        pip = [str(venv_python(venv)), "-m", "pip", "install", "--retries=2", "--no-deps"]
        _install("nox and uv", [*pip, "-r", str(root / LOCKS / "make.txt")], venv)


def _install(what: str, command: Sequence[str], venv: Path) -> None:
    """Run an installer with its output in a log, and show that it is alive."""
    start, live, log = time.monotonic(), sys.stderr.isatty(), venv / "install.log"
    print(f"Installing {what} (log: {log}) ...", end="" if live else "\n", file=sys.stderr, flush=True)
    with open(log, "w", encoding="utf-8") as output:
        environ = {**os.environ, **uv_environ(command[0])}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environ, close_fds=False)
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
    if process.returncode:
        raise ToolError(host.explain_failure(what, log.read_text("utf-8", "replace"), venv.parent))


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Let one process at a time prepare a checkout. The lock goes with it and its installers, whatever ends them."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(root, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: bootstrap.py demo|serve|soak|TAG|SESSION [arguments]")
    command, *arguments = sys.argv[1:]
    try:
        python = prepare(command)
    except ToolError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: The environment cannot be made: {error.strerror or error} ({error.filename}).")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")
    if command in PROGRAMS:
        program = ["tools", PROGRAMS[command], *arguments]
    else:
        program = ["nox", "--tags" if command in TAGS else "--sessions", command, "--", *arguments]
    os.chdir(host.ROOT)
    sys.stderr.flush()
    os.execv(python, [python, "-m", *program])


if __name__ == "__main__":
    main()
