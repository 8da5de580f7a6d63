"""A PostgreSQL server of the tests' own: a free port, a data folder of its own, an unprivileged user."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.ports import free_port

MISSING = "PostgreSQL is not installed (Debian's package postgresql); the store's tests run on SQLite alone."
START_SECONDS = 120.0


def find_programs() -> Path | None:
    """The folder of the newest installed server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """Started by `start`, killed by `kill`; its folder outlives both, and is gone after `remove`."""

    def __init__(self, programs: Path) -> None:
        # Not among pytest's folders, which are closed to other users, and again at each start of another pytest.
        self.programs, self.home = programs, Path(tempfile.mkdtemp(prefix="redux-postgres-"))
        self.folder, self.log = self.home / "data", self.home / "log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.become = _unprivileged(self.home)
        self._run(
            "initdb", "--pgdata", str(self.folder), "--username", "redux", "--auth", "trust", "--encoding", "UTF8"
        )

    def url(self, name: str = "postgres") -> str:
        return f"postgresql+psycopg://redux@127.0.0.1:{self.port}/{name}"

    def create(self, name: str) -> str:
        self._run("createdb", "--host", "127.0.0.1", "--port", str(self.port), "--username", "redux", name)
        return self.url(name)

    def start(self) -> None:
        arguments = ["-D", str(self.folder), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        arguments += ["-c", "unix_socket_directories=", "-c", "max_connections=60", "-c", "shared_buffers=16MB"]
        arguments += ["-c", "fsync=off", "-c", "full_page_writes=off"]  # a killed server loses nothing by it
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(self.programs / "postgres"), *arguments], stdout=log, stderr=log, preexec_fn=self.become, cwd="/"
            )
        end = time.monotonic() + START_SECONDS
        ready = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(self.log.read_text("utf-8", "replace"))
            time.sleep(0.05)

    def stop(self) -> None:
        """Fast shutdown: connections are ended, and nothing has to be recovered."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        self._end(signal.SIGQUIT)  # an immediate end, as in a crash, and no child is left

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.home)

    def _end(self, number: int) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(number)
            process.wait(30)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=self.become, cwd="/", check=False)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")


def _unprivileged(home: Path) -> Callable[[], None]:
    """What a child becomes: nobody's, where we are root, since the server refuses to be; and it ends when we do."""
    user = next((pwd.getpwnam(name) for name in ("postgres", "nobody") if _exists(name)), None)
    if os.geteuid() == 0 and user is not None:
        os.chown(home, user.pw_uid, user.pw_gid)

    def become() -> None:
        if os.geteuid() == 0 and user is not None:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG

    return become


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
