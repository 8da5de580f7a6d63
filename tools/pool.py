"""`make pool`: a whole pool on this machine: RabbitMQ, a gateway, two ComfyUIs with the miniature, two workers.

Everything lies in a folder of its own, which is removed at the end; Ctrl-C ends it all and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .errors import ToolError
from .host import ensure
from .pool_parts import LocalPool, answers
from .rabbitmq import MISSING, Broker, find_program
from .serve import CLASSIFIERS, PHOTOGRAPH, curl_lines, furnish
from .server import Server
from .signals import end_if_asked, end_on_signals

GUIDANCE = {"models": {"guidance": "cfg"}}
"""The miniature's guidance is classifier-free."""
START_SECONDS = 120.0
POOL_FOLDER = "redux-pool-"


def provide_rabbitmq() -> None:
    """Install RabbitMQ with apt where it is missing and that is permitted.

    Raises:
        ToolError: it is not there, and cannot be installed; one sentence.
    """
    if find_program() is not None:
        return
    rights = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (rights and shutil.which("sudo") is None):
        raise ToolError(MISSING)
    print("Installing RabbitMQ ...", file=sys.stderr, flush=True)
    install = [*rights, "apt-get", "install", "-q", "-y", "--no-install-recommends", "rabbitmq-server"]
    for command in ([*rights, "apt-get", "update", "-q"], install):
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or find_program() is None:
        raise ToolError(MISSING)


@contextmanager
def running(folder: Path, hosts: int, port: int) -> Iterator[LocalPool]:
    """A pool whose gateway takes jobs; all of it is gone when the context is left."""
    os.environ.pop("REDUX_API", None)  # the hosts behind the gateway have no endpoints of their own
    comfy = ensure(None)
    servers = [Server(comfy, folder / f"comfyui-{number}") for number in range(1, hosts + 1)]
    with Broker(folder / "rabbitmq") as broker:
        pool = LocalPool(folder, broker, GUIDANCE)
        try:
            with ThreadPoolExecutor(hosts) as threads:
                list(threads.map(_start, servers))
            for number, server in enumerate(servers, 1):
                pool.add_worker(str(number), server.url, base=server.folder)
            pool.add_gateway(port=port)
            _await_workers(pool)
            yield pool
        finally:
            pool.stop()
            for server in servers:
                server.stop()


def _start(server: Server) -> None:
    furnish(server.folder)
    server.start()


def _await_workers(pool: LocalPool) -> None:
    """Until the workers have their queue."""
    end = time.monotonic() + START_SECONDS
    logs = [worker.log for worker in pool.workers.values()]
    while not all(log.exists() and "consuming from redux." in log.read_text("utf-8", "replace") for log in logs):
        if time.monotonic() > end or not all(worker.alive for worker in pool.workers.values()):
            raise ToolError(f"The workers do not begin; {logs[0]} tells why.")
        time.sleep(0.2)
        end_if_asked()


def watch(pool: LocalPool) -> None:
    """Until a part ends that should not.

    Raises:
        ToolError: which one.
    """
    parts = {**pool.workers, **pool.gateways}
    while True:
        for name, part in parts.items():
            if not part.alive:
                raise ToolError(f"{name} ended; the last of its log: {_last_line(part.log)}")
        if pool.broker.process is None or pool.broker.process.poll() is not None:
            raise ToolError("RabbitMQ ended.")
        time.sleep(0.5)
        end_if_asked()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing."


def explain(pool: LocalPool) -> None:
    gateway = pool.gateways["gateway"]
    has_classifier = any(importlib.util.find_spec(name) for name in CLASSIFIERS)
    lines = curl_lines(gateway.url, PHOTOGRAPH, has_classifier, bool(os.environ.get("REDUX_API_KEYS")))
    print(f"Gateway: {gateway.url}; {len(pool.workers)} ComfyUIs behind it; logs: {pool.folder}; Ctrl-C ends it all.")
    print("As to WaveSpeedAI; the answer's urls.get is where the picture's link appears:\n")
    print(lines[0])
    print("\nAs to Replicate; the answer comes with the picture's link in output:\n")
    print(lines[1], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make pool", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=2, help="how many ComfyUIs")
    parser.add_argument("--port", type=int, default=8288, help="of the gateway; 0 takes a free one")
    args = parser.parse_args()
    end_on_signals()
    folder = Path(tempfile.mkdtemp(prefix=POOL_FOLDER))
    try:
        provide_rabbitmq()
        if args.port and answers(f"http://127.0.0.1:{args.port}/"):
            raise ToolError(f"Port {args.port} is taken; choose another one, or 0 to have a free one.")
        with running(folder, args.hosts, args.port) as pool:
            explain(pool)
            watch(pool)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("\nStopped.")
    except (ToolError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
