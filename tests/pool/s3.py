"""A real S3-compatible server: moto's, in a process of its own on a free port."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
import uuid
from typing import Any

from tools.ports import free_port

START_SECONDS = 120.0


class S3Server:
    def __enter__(self) -> S3Server:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/", timeout=5).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": self.url, "key": "anything", "secret": "anything"}

    def bucket(self) -> str:
        """A new, empty one."""
        name = f"redux-{uuid.uuid4().hex}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return name
