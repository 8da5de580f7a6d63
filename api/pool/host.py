"""One ComfyUI over HTTP, as a worker sees it: prompts in, their states and pictures out. Its queue is the truth."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import uuid
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from ...nodes.host.history import Ended, read_history
from ..backend import QUEUED, RUNNING
from ..prompt import Prompt

FOLDERS = ("diffusion_models", "vae", "clip_vision", "style_models", "text_encoders")
ANSWER_SECONDS = 5.0
FILE_SECONDS = 60.0
SUBFOLDER = "redux-api"
Headers = Mapping[str, str]


class HostAway(OSError):
    """The host does not answer, or not as ComfyUI does."""


class Refused(Exception):
    """ComfyUI's own validation refuses a prompt; one sentence."""


class ComfyHost:
    """Every method is one request and raises HostAway where it fails. Each thread keeps a connection.

    Args:
        url: of ComfyUI, http://HOST:PORT.
        client: what this worker's prompts are marked with in the host's queue.
    """

    def __init__(self, url: str, client: str) -> None:
        place = urlsplit(url)
        if place.scheme != "http" or not place.hostname:
            raise ValueError(f"{url!r} is no address of a ComfyUI like http://127.0.0.1:8188.")
        self.address, self.port, self.client = place.hostname, place.port or 80, client
        self.kept = threading.local()

    def memory_gb(self) -> float:
        """Of the device that it computes on."""
        devices = self._json("GET", "/system_stats").get("devices") or [{}]
        return float(devices[0].get("vram_total") or 0.0) / (1 << 30)

    def files(self) -> tuple[str, ...]:
        """The models that it lists, as folder/name, and whether this pack is there at all."""
        if not self._json("GET", "/object_info/ReduxApply"):
            raise HostAway("this pack is not installed in it")
        return tuple(
            f"{folder}/{name}" for folder in FOLDERS for name in sorted(self._json("GET", f"/models/{folder}"))
        )

    def upload(self, name: str, content: bytes) -> str:
        """Put a picture into the input folder; its name for Load Image. Equal names hold equal pictures."""
        boundary = uuid.uuid4().hex
        fields = {"type": "input", "subfolder": SUBFOLDER, "overwrite": "true"}
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in fields.items()
        )
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'.encode()
        body += b"Content-Type: image/png\r\n\r\n" + content + f"\r\n--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self._json("POST", "/upload/image", body, kind, FILE_SECONDS)
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else str(answer["name"])

    def submit(self, prompt_id: str, prompt: Prompt) -> None:
        """Queue a prompt under an id of ours.

        Raises:
            Refused: it is no valid prompt here.
        """
        order = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.client}
        body, kind = json.dumps(order).encode(), {"Content-Type": "application/json"}
        # On a connection of its own: one that was kept may break with the prompt taken, and it must not be sent twice.
        with closing(self._connect(FILE_SECONDS)) as connection:
            status, content = _exchange(connection, "POST", "/prompt", body, kind)
        if status == 400:
            raise Refused(_problem(content))
        if status != 200:
            raise HostAway(f"it answers a prompt with {status}")

    def states(self) -> dict[str, str]:
        """What waits and what runs, by prompt id."""
        queue = self._json("GET", "/queue")
        waiting = {item[1]: QUEUED for item in queue["queue_pending"]}
        return waiting | {item[1]: RUNNING for item in queue["queue_running"]}

    def own(self) -> list[str]:
        """The prompts of this worker that wait or run."""
        queue = self._json("GET", "/queue")
        items = [*queue["queue_pending"], *queue["queue_running"]]
        return [item[1] for item in items if (item[3] or {}).get("client_id") == self.client]

    def ended(self, prompt_id: str) -> Ended | None:
        """How a prompt ended; None before its end, and of one that this host does not know."""
        entry = self._json("GET", f"/history/{quote(prompt_id)}").get(prompt_id)
        return None if entry is None else read_history(entry)

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, or interrupt it where it runs; another one that runs is left alone."""
        for path, body in (("/queue", {"delete": [prompt_id]}), ("/interrupt", {"prompt_id": prompt_id})):
            self._ask("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def picture(self, name: str) -> bytes:
        """A saved picture, by its path in the output folder."""
        subfolder, _, filename = name.rpartition("/")
        query = urlencode({"filename": filename, "subfolder": subfolder, "type": "output"})
        status, content = self._ask("GET", f"/view?{query}", seconds=FILE_SECONDS)
        if status != 200:
            raise HostAway(f"it answers {status} for a picture that it has made")
        return content

    def _json(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Headers | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:
        status, content = self._ask(method, path, body, headers, seconds)
        if status != 200:
            raise HostAway(f"it answers {path.partition('?')[0]} with {status}")
        try:
            return json.loads(content)
        except ValueError as error:
            raise HostAway("it does not answer with JSON") from error

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Headers | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> tuple[int, bytes]:
        """Over the kept connection, and once more over a new one where the host has closed that in the meantime."""
        connection, self.kept.connection = getattr(self.kept, "connection", None), None
        if connection is not None:
            connection.sock.settimeout(seconds)
            try:
                return self._keep(connection, _exchange(connection, method, path, body, headers))
            except HostAway as error:
                connection.close()
                if not isinstance(error.__cause__, ConnectionError):
                    raise
        connection = self._connect(seconds)
        try:
            return self._keep(connection, _exchange(connection, method, path, body, headers))
        except HostAway:
            connection.close()
            raise

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=seconds)
        try:
            connection.connect()
        except OSError as error:
            raise HostAway(str(error) or type(error).__name__) from error
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _keep(self, connection: http.client.HTTPConnection, answer: tuple[int, bytes]) -> tuple[int, bytes]:
        if connection.sock is not None:  # else the host has asked to close it
            self.kept.connection = connection
        return answer


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: Headers | None
) -> tuple[int, bytes]:
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise HostAway(str(error) or type(error).__name__) from error


def _problem(content: bytes) -> str:
    """ComfyUI's refusal of a prompt, in one sentence."""
    try:
        answer = json.loads(content)
        for problem in (answer.get("node_errors") or {}).values():
            first = problem["errors"][0]
            return f"{problem['class_type']}: {first['message']}: {first['details']}"
        return str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "ComfyUI refuses the workflow"
