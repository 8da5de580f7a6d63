"""The parts of a pool on one machine as programs that can be started, stopped and killed: for `make pool` and tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .errors import ToolError
from .host import ROOT
from .ports import free_port
from .rabbitmq import Broker

START_SECONDS = 120.0
STOP_SECONDS = 60.0
QUIET = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Part:
    """One program with its own log. It is a group of processes of its own, so that no child of it is left.

    Args:
        arguments: of Python, after `-m`.
        environ: beside this process's own.
        log: what it prints is added to it.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.arguments, self.environ, self.log = list(arguments), dict(environ), log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environ = {**os.environ, **QUIET, **self.environ}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """With -9, children and all."""
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        self.process = None

    def stop(self) -> None:
        """In order, and by force what does not end."""
        if self.process is not None and self.alive:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        self.kill()

    def pause(self) -> None:
        """It says nothing more and closes nothing: the other ends see a connection that is half open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Served(Part):
    """A program that answers HTTP at a port of its own."""

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], log: Path, port: int = 0, path: str = "/"
    ) -> None:
        self.port = port or free_port()
        super().__init__([*arguments, "--port", str(self.port)], environ, log)
        self.path = path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it answers.

        Raises:
            ToolError: it ended, or does not answer.
        """
        end = time.monotonic() + START_SECONDS
        while not answers(self.url + self.path):
            if not self.alive or time.monotonic() > end:
                raise ToolError(f"{self.arguments[0]} does not answer; {self.log} tells why.")
            time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a server answers with anything that is no failure of its own."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def simulated_host(folder: Path, name: str, seconds: float, *more: str) -> Served:
    arguments = ["tools.simulated_host", "--seconds", str(seconds), *more]
    return Served(arguments, {}, folder / f"{name}.log", path="/queue")


def worker(folder: Path, name: str, host: str, environ: Mapping[str, str], base: Path | None = None) -> Part:
    """Args: `host` is the address of the ComfyUI beside it, `base` that one's folder."""
    arguments = ["api.pool.worker", "--host", host, "--name", name]
    if base is not None:
        arguments += ["--folder", str(base)]
    return Part(arguments, environ, folder / f"{name}.log")


def gateway(folder: Path, name: str, environ: Mapping[str, str], port: int = 0) -> Served:
    """Its settings are redux-api.json in its folder."""
    arguments = ["api.pool.gateway", "--folder", str(folder / name)]
    return Served(arguments, environ, folder / f"{name}.log", port, "/redux-api/openapi.json")


class LocalPool:
    """A pool on this machine; `hosts`, `workers` and `gateways` are added to it by name and may be killed one by one.

    Args:
        folder: for everything; what a pool leaves lies in it alone.
        settings: for redux-api.json.
        environ: more of the pool's settings, as variables.
    """

    def __init__(
        self, folder: Path, broker: Broker, settings: Mapping[str, object], environ: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.broker, self.settings = folder, broker, dict(settings)
        own = {"REDUX_POOL_STORE": f"sqlite:///{folder / 'jobs.sqlite'}", "REDUX_POOL_FILES": str(folder / "files")}
        self.environ = {**broker.environ, **own, **(environ or {})}
        self.hosts: dict[str, Served] = {}
        self.workers: dict[str, Part] = {}
        self.gateways: dict[str, Served] = {}

    def add_host(
        self, name: str, seconds: float = 0.1, *more: str, worker_environ: Mapping[str, str] | None = None
    ) -> None:
        """A simulated host and its worker, which are started."""
        host = self.hosts[name] = simulated_host(self.folder, f"host-{name}", seconds, *more)
        host.start()
        self.add_worker(name, host.url, worker_environ)

    def add_worker(
        self, name: str, url: str, environ: Mapping[str, str] | None = None, base: Path | None = None
    ) -> None:
        """Beside the ComfyUI at `url`, whose folder is `base`, where what was fetched is to be removed."""
        own = {**self.environ, **(environ or {})}
        made = self.workers[name] = worker(self.folder, f"worker-{name}", url, own, base)
        made.start()

    def add_gateway(self, name: str = "gateway", environ: Mapping[str, str] | None = None, port: int = 0) -> Served:
        home = self.folder / name
        home.mkdir(parents=True, exist_ok=True)
        (home / "redux-api.json").write_text(json.dumps(self.settings), "utf-8")
        made = self.gateways[name] = gateway(self.folder, name, {**self.environ, **(environ or {})}, port)
        made.start()
        made.wait()
        return made

    def stop(self) -> None:
        """All but the broker, by force: what a pool does at its ends is tested elsewhere."""
        for part in (*self.gateways.values(), *self.workers.values(), *self.hosts.values()):
            part.kill()
