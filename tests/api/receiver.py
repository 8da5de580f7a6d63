"""A web server of the tests: it gives a picture and takes webhooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from caller import png


@dataclass
class Delivery:
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """`failures` is how many webhooks are answered 500 before the first is taken; redirects go to /to/... ."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.taken, self.refused = failures, list[Delivery](), list[Delivery]()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(png(64, 64))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(Delivery(dict(self.headers.items()), body)))
                self.send_header("Location", f"{receiver.url}/elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, delivery: Delivery) -> int:
        if len(self.refused) < self.failures:
            self.refused.append(delivery)
            return 307 if len(self.refused) == 1 else 500
        self.taken.append(delivery)
        return 200

    def wait(self, count: int, seconds: float = 120) -> list[Delivery]:
        """The webhooks taken, once there are so many."""
        end = time.monotonic() + seconds
        while len(self.taken) < count:
            assert time.monotonic() < end, f"{len(self.taken)} of {count} webhooks came"
            time.sleep(0.05)
        return self.taken

    def __enter__(self) -> Receiver:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
