"""A RabbitMQ of one's own on this machine: its own port, its own folder, and nothing of it left when it is stopped.

with Broker(folder) as broker:
    print(broker.url)
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .errors import ToolError
from .ports import free_port

PLACES = ("/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where packages put the program; Debian's in /usr/sbin changes the user, the one in /usr/lib does not."""
START_SECONDS = 120.0
USER = "redux"
MISSING = "RabbitMQ is not installed here; install it, e.g. apt install rabbitmq-server."


def find_program(name: str = "rabbitmq-server") -> str | None:
    for place in PLACES:
        path = Path(place) / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return shutil.which(name)


class Broker:
    """Started on entering the context, gone on leaving it. `kill` and `start` again keep what lies in its queues.

    Args:
        folder: of its data, made if need be.
        consumer_timeout: seconds that it waits for a worker's acknowledgement.
    """

    def __init__(self, folder: Path, consumer_timeout: float = 1800.0) -> None:
        self.folder, self.consumer_timeout = folder.absolute(), consumer_timeout
        self.password = secrets.token_hex(16)
        self.port, self.distribution, self.mapper = free_port(), free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.names: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Without the password."""
        return f"amqp://{USER}@127.0.0.1:{self.port}/"

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{self.password}@127.0.0.1:{self.port}/"

    @property
    def environ(self) -> dict[str, str]:
        """For the pool's programs."""
        return {"REDUX_POOL_BROKER": self.address, "REDUX_POOL_PASSWORD": self.password}

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it takes connections.

        Raises:
            ToolError: it is not installed, ended, or hung; one sentence.
        """
        program = find_program()
        if program is None:
            raise ToolError(MISSING)
        self._lay_out()
        self._start_names()
        with open(self.folder / "rabbitmq.log", "ab") as log:
            self.process = subprocess.Popen(
                [program], env=self._environ(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise ToolError(f"RabbitMQ did not start; {self.folder / 'rabbitmq.log'} tells why.")
            time.sleep(0.1)

    def kill(self) -> None:
        """As a power cut would: no process of it has a word to say."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it in order, or by force where that takes long."""
        if self.process is not None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        self.kill()
        if self.names is not None:
            self.names.kill()
            self.names.wait()
            self.names = None

    def pause(self) -> None:
        """Stop answering without closing anything, as a machine that hangs."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGCONT)

    def _lay_out(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"default_user = {USER}",
            f"default_pass = {self.password}",
            f"consumer_timeout = {int(1000 * self.consumer_timeout)}",
            "loopback_users.guest = true",
            "disk_free_limit.absolute = 50MB",
            "log.file.level = warning",
        ]
        config = self.folder / "rabbitmq.conf"
        config.touch(mode=0o600)
        config.write_text("\n".join(lines) + "\n", "utf-8")

    def _environ(self) -> dict[str, str]:
        folder = self.folder
        own = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"redux{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(self.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
            "ERL_EPMD_PORT": str(self.mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        return {**kept, **own}

    def _start_names(self) -> None:
        """Erlang's port mapper, which RabbitMQ would start for itself and leave behind."""
        if self.names is not None and self.names.poll() is None:
            return
        program = shutil.which("epmd")
        if program is None:
            raise ToolError("Erlang's epmd is not on the path; RabbitMQ's package brings it.")
        command = [program, "-port", str(self.mapper), "-address", "127.0.0.1"]
        quiet = subprocess.DEVNULL
        self.names = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def _answers(self) -> bool:
        """Whether it speaks AMQP; its port is open a moment before that."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(2)
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(8))
        except OSError:
            return False
