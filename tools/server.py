"""A headless ComfyUI with this pack in it, in folders of its own, that never outlives the process that started it.

    with Server(host, folder) as server:
        Client(server.url)

`folder` becomes ComfyUI's base directory: models, input, output, user and custom_nodes are its sub-folders, so that a
user's own ComfyUI stays as it is. Its models are listed beside those in `folder`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from .certificate import Certificate
from .errors import ToolError
from .host import ROOT, Host
from .ports import check_port, free_port, is_free
from .signals import end_if_asked

PACK = "redux-control"
START_SECONDS = 300.0
STOP_SECONDS = 20.0
ANSWER_SECONDS = 60.0
BUSY = re.compile(r"address already in use|Port \d+ is already in use|WinError 10048", re.IGNORECASE)


class Server:
    """Starts on entering the context, stops on leaving it; `start` and `stop` do the same by hand.

    Args:
        host: the ComfyUI to run.
        folder: its base directory, made if need be. Two servers need two folders.
        port: 0 takes a free one.
        arguments: more of ComfyUI's arguments.
        python: the Python to run it with.
        certificate: makes the server speak https.
    """

    def __init__(
        self,
        host: Host,
        folder: Path,
        *,
        port: int = 0,
        arguments: Sequence[str] = (),
        python: str = sys.executable,
        certificate: Certificate | None = None,
    ) -> None:
        self.host, self.folder, self.python = host, folder.absolute(), python
        self.port, self.arguments, self.certificate = port, list(arguments), certificate
        self.log = self.folder / "comfyui.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._begun = 0  # where its part of the log begins

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: types.TracebackType | None
    ) -> None:
        self.stop()

    def start(self, attempts: int = 3) -> None:
        """Start and wait until requests are answered and the pack's nodes are there.

        Raises:
            ToolError: the server ended or hung; the sentence carries the line of its log that tells why.
        """
        wanted = check_port(self.port)
        self._lay_out()
        for attempt in range(attempts):
            if not wanted:
                self.port = free_port()
            elif not is_free(wanted):
                raise ToolError(f"Port {wanted} is taken; choose another one, or 0 to have a free one.")
            self.process = self._launch()
            try:
                if self._wait():
                    self._check_pack()
                    return
                if not BUSY.search(self._said()) or wanted or attempt == attempts - 1:
                    raise ToolError(f"ComfyUI {self.host.version} ended at its start: {self._last_error()}")
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End the process and wait for it; a second interrupt meanwhile kills it at once."""
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.terminate()
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdin:
                process.stdin.close()

    def explain_end(self) -> str | None:
        """Why the server is gone, or None while it runs."""
        if self.process is not None and self.process.poll() is None:
            return None
        code = self.process.returncode if self.process is not None else 0
        if code < 0:  # whatever the log says last has not ended it
            why = ", as a system does that has no memory left" if -code == signal.SIGKILL else ""
            return f"ComfyUI {self.host.version} was killed by {signal.Signals(-code).name}{why} (log: {self.log})."
        return f"ComfyUI {self.host.version} ended: {self._last_error()}"

    def _lay_out(self) -> None:
        for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        link = self.folder / "custom_nodes" / PACK
        if not link.exists() and not link.is_symlink():  # else a pack that was installed there is used
            link.symlink_to(ROOT, target_is_directory=True)

    def _command(self) -> list[str]:
        command = [self.python, str(Path(__file__).with_name("launch.py")), str(self.host.path)]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--base-directory", str(self.folder)]
        command += ["--database-url", f"sqlite:///{self.folder / 'user' / 'comfyui.db'}"]
        if self.host.own:
            command += ["--extra-model-paths-config", str(self._list_own_models())]
        if not has_gpu():
            command += ["--cpu"]
        if self.certificate:
            command += ["--tls-certfile", str(self.certificate.certificate), "--tls-keyfile", str(self.certificate.key)]
        return [*command, *self.arguments]

    def _list_own_models(self) -> Path:
        """A model path file (YAML, of which JSON is a part) that adds the models of the user's ComfyUI."""
        models = self.host.path / "models"
        folders = {path.name: f"{path.name}/" for path in sorted(models.glob("*/"))}
        path = self.folder / "extra_model_paths.yaml"
        path.write_text(json.dumps({"own": {"base_path": str(models), **folders}}, indent=2), "utf-8")
        return path

    def _launch(self) -> subprocess.Popen[bytes]:
        # Waiting threads that spin take the cores from whatever else runs: on two cores a demo beside one busy
        # process took five times as long.
        environ = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environ.pop("PYTHONPATH", None)
        # A session of its own: Ctrl-C in the terminal is for us, and we stop the server in order.
        # What an earlier server said stays, and one that runs beside this one writes on.
        with open(self.log, "ab") as log:
            self._begun = log.tell()
            return subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self) -> bool:
        """True when it answers, False when it has ended."""
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            end_if_asked()
            if self.process.poll() is not None:
                return False
            if self._get("/system_stats") is not None:
                return True
            time.sleep(0.1)
        raise ToolError(f"ComfyUI {self.host.version} does not answer after {START_SECONDS:.0f} s; see {self.log}.")

    def _check_pack(self) -> None:
        if not self._get("/object_info/ReduxLoader"):
            raise ToolError(f"ComfyUI {self.host.version} runs without this pack: {self._last_error()}")

    def _get(self, path: str) -> object:
        try:
            trust = ssl.create_default_context(cafile=self.certificate.certificate) if self.certificate else None
            with urllib.request.urlopen(self.url + path, timeout=ANSWER_SECONDS, context=trust) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def _said(self) -> str:
        """The log since this server began."""
        with open(self.log, "rb") as log:
            log.seek(self._begun)
            return log.read().decode("utf-8", "replace")

    def _last_error(self) -> str:
        return f"{last_error(self._said())} (log: {self.log})"


def last_error(log: str) -> str:
    """The line of a log that tells most: the last that names an error, or else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"([\w.]+(Error|Exception|Interrupt)\b|\S*main\.py: error:)", line)]
    return (errors or lines or ["it wrote nothing"])[-1]


def has_gpu(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ComfyUI should look for an accelerator. It is asked of the drivers: importing torch takes seconds.

    REDUX_CPU=1 says no.
    """
    if environ.get("REDUX_CPU", "0") not in ("", "0"):
        return False
    if sys.platform == "darwin" or Path("/dev/kfd").exists():
        return True
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
