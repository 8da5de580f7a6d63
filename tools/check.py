"""`make lint`, `make test`, `make test-all`: every check in a process of its own, all of them run, one verdict.

Arguments go to pytest: `make test ARGS="-k strength"`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import host
from .errors import ToolError

CODE = ["redux", "nodes", "api", "tools", "benchmarks", "miniature", "tests", "__init__.py"]
TYPED = ["redux", "nodes", "api", "tools"]
NO_TESTS = 5  # pytest's exit status when it found none


@dataclass(frozen=True)
class Check:
    name: str
    command: list[str]
    environ: dict[str, str] = field(default_factory=dict)


def list_checks(command: str, arguments: list[str]) -> Iterator[Check]:
    code = [name for name in CODE if (host.ROOT / name).exists()]
    typed = [name for name in TYPED if (host.ROOT / name).exists()]
    yield Check("ruff check", ["ruff", "check", *code])
    yield Check("ruff format", ["ruff", "format", "--check", *code])
    yield Check("mypy", ["mypy", *typed])
    if command == "lint":
        return
    yield Check("tests/library", ["pytest", "tests/library", *arguments])
    versions = list(host.RELEASES) if command == "test-all" else [os.environ.get("REDUX_HOST", "")]
    for version in versions:
        for tier in ("tests/host", "tests/server", "tests/api"):
            name = f"{tier} on ComfyUI {version}" if version else tier
            yield Check(name, ["pytest", tier, *arguments], {"REDUX_HOST": version})


def run(check: Check, selected: bool) -> bool:
    """Run one check with its output shown. A selection of tests may leave a tier without any."""
    print(f"\n=== {check.name}", flush=True)
    start = time.monotonic()
    command = [sys.executable, "-m", *check.command]
    done = subprocess.run(command, cwd=host.ROOT, env={**os.environ, **check.environ}, check=False)
    passed = done.returncode == 0 or (selected and done.returncode == NO_TESTS)
    print(f"=== {check.name}: {'ok' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
    return passed


def main() -> None:
    command, *arguments = sys.argv[1:]
    try:
        own = host.find_own()
        failed = [check.name for check in list_checks(command, arguments) if not run(check, bool(arguments))]
    except ToolError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
    where = "" if own is None or command == "lint" else f" (ComfyUI {own.version} at {own.path})"
    if failed:
        sys.exit(f"\nFAILED{where}: {', '.join(failed)}")
    print(f"\nEverything passed{where}.")


if __name__ == "__main__":
    main()
