"""A small client of ComfyUI's HTTP and websocket interface.

    client = Client("http://127.0.0.1:8188")
    name = client.upload(Path("cat.jpg"))
    result = client.run(prompt, on_progress=print)           # prompt: a workflow in API format
    pictures = [client.fetch(image) for image in result.images]

Every failure is a ClientError with one sentence.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from .errors import ToolError
from .signals import end_if_asked

Prompt = Mapping[str, Mapping[str, Any]]


class ClientError(ToolError):
    """The server refused a request, or a node failed. `node_type` names the node class where one is at fault."""

    def __init__(self, message: str, node_type: str | None = None) -> None:
        super().__init__(message)
        self.node_type = node_type


class Interrupted(ClientError):
    """The prompt was interrupted before its end."""


@dataclass(frozen=True)
class Progress:
    """`value` of `max` steps of one node."""

    node: str
    node_type: str
    value: int
    max: int


@dataclass
class Result:
    """What a prompt did: `outputs` by node as in ComfyUI's history, `ran` and `cached` node ids in order."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)

    @property
    def images(self) -> list[dict[str, str]]:
        """The images that were saved, in node order; `Client.fetch` takes them. Previews are not among them."""
        shown = [image for output in self.outputs.values() for image in output.get("images", [])]
        return [image for image in shown if image.get("type") == "output"]


OnProgress = Callable[[Progress], None]


class Client:
    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.id = uuid.uuid4().hex

    def request(self, path: str, body: object = None, *, data: bytes | None = None, kind: str | None = None) -> bytes:
        """GET, or POST when there is a body (JSON) or data. Raises ClientError."""
        if body is not None:
            data, kind = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.url + path, data=data)
        if kind:
            request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise _refusal(path, error.code, error.read()) from None
        except OSError as error:
            raise ClientError(f"ComfyUI at {self.url} does not answer: {getattr(error, 'reason', error)}.") from error

    def object_info(self, node: str = "") -> dict[str, Any]:
        """Node descriptions by class; of one class, or of all."""
        return dict(json.loads(self.request(f"/object_info/{node}" if node else "/object_info")))

    def history(self, prompt_id: str) -> dict[str, Any]:
        return dict(json.loads(self.request(f"/history/{prompt_id}")).get(prompt_id, {}))

    def interrupt(self) -> None:
        self.request("/interrupt", {})

    def upload(self, source: Path | bytes, name: str | None = None) -> str:
        """Put a picture into ComfyUI's input folder; returns the name for Load Image."""
        content = source if isinstance(source, bytes) else source.read_bytes()
        name = name or (source.name if isinstance(source, Path) else "image.png")
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        data = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        answer = self.request("/upload/image", data=data, kind=f"multipart/form-data; boundary={boundary}")
        return str(json.loads(answer)["name"])

    def fetch(self, image: Mapping[str, str]) -> bytes:
        """The bytes of an image that a result names."""
        query = {key: image[key] for key in ("filename", "subfolder", "type") if key in image}
        return self.request(f"/view?{urllib.parse.urlencode(query)}")

    def queue(self, prompt: Prompt) -> str:
        """Queue a workflow in API format; returns its id. Raises ClientError when ComfyUI's validation refuses it."""
        return str(json.loads(self.request("/prompt", {"prompt": prompt, "client_id": self.id}))["prompt_id"])

    def run(self, prompt: Prompt, on_progress: OnProgress | None = None, timeout: float = 600.0) -> Result:
        """Queue a workflow and follow it to its end.

        Raises:
            Interrupted: somebody interrupted it.
            ClientError: it was refused, a node failed, the server went away, or `timeout` seconds passed.
        """
        end_if_asked()
        try:
            return asyncio.run(_within(timeout, self._run(prompt, on_progress)))
        except aiohttp.ClientError as error:
            raise ClientError(f"The connection to ComfyUI at {self.url} failed: {error}.") from error

    async def _run(self, prompt: Prompt, on_progress: OnProgress | None) -> Result:
        url = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            result = Result(await asyncio.to_thread(self.queue, prompt))
            async for message in socket:
                if message.type != aiohttp.WSMsgType.TEXT:  # previews
                    continue
                event = json.loads(message.data)
                data = event.get("data", {})
                if data.get("prompt_id") == result.prompt_id and _follow(
                    event["type"], data, prompt, result, on_progress
                ):
                    history = await asyncio.to_thread(self.history, result.prompt_id)
                    outputs = dict(history.get("outputs", {}))  # in the order of their running
                    result.outputs = {key: outputs.pop(key) for key in prompt if key in outputs} | outputs
                    return result
        raise ClientError(f"ComfyUI at {self.url} closed the connection before the workflow was done.")


async def _within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`. Not asyncio.wait_for: before Python 3.12 it loses a Ctrl-C that comes just as the work ends."""
    task = asyncio.ensure_future(work)
    # A signal's exception that is raised in the task ends the loop as well: asyncio is not to report it once more.
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        raise ClientError(f"The workflow was not done after {seconds:.0f} s.")
    return task.result()


def _follow(kind: str, data: dict[str, Any], prompt: Prompt, result: Result, on_progress: OnProgress | None) -> bool:
    """Take one event into the result; True when the prompt is done."""
    node: Any = data.get("node")
    if kind == "execution_cached":
        result.cached = list(data["nodes"])
    elif kind == "executing" and node is not None:
        result.ran.append(node)
    elif kind == "progress" and on_progress is not None:
        node_type = str(prompt.get(node, {}).get("class_type", ""))
        on_progress(Progress(node, node_type, int(data["value"]), int(data["max"])))
    elif kind == "execution_interrupted":
        raise Interrupted("The workflow was interrupted.", data.get("node_type"))
    elif kind == "execution_error":
        message = str(data["exception_message"]).strip()
        raise ClientError(f"{data['node_type']}: {message}", data["node_type"])
    # "execution_success" comes earlier, when the history is not written yet.
    return kind == "executing" and node is None


def _refusal(path: str, code: int, body: bytes) -> ClientError:
    """A sentence from an HTTP error; ComfyUI explains refused workflows node by node."""
    try:
        answer = json.loads(body)
        nodes = answer.get("node_errors") or {}
        for problem in nodes.values():
            error = problem["errors"][0]
            return ClientError(
                f"{problem['class_type']}: {error['message']}: {error['details']}", problem["class_type"]
            )
        error = answer["error"]
        return ClientError(f"ComfyUI refused the workflow: {error['message']} {error.get('details', '')}".strip())
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace").strip().splitlines()
        return ClientError(f"ComfyUI answered {code} to {path}: {text[0] if text else 'nothing'}")
