"""A host that answers as ComfyUI's queue does and computes nothing: for tests of the pool and its benchmark.

    python -m tools.simulated_host --port 8188 --seconds 0.2

It takes this pack's hosted workflow, one prompt at a time, and its picture is a function of the prompt and of the
reference alone, as a real host's is of the same seed. Like ComfyUI it forgets everything when it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from PIL import Image

MODELS = (
    "diffusion_models/redux-mini-flux.safetensors",
    "vae/redux-mini-vae.safetensors",
    "clip_vision/redux-mini-siglip.safetensors",
    "style_models/redux-mini-projector.safetensors",
    "text_encoders/redux-mini-words.safetensors",
)
DEADLY = "kill the host"
"""A prompt with this text ends the host as it begins, as one does that takes too much memory."""
SLOW = "take your time"
"""A prompt with this text takes for ever, or until it is interrupted."""
HELD = "wait for the word"
"""A prompt with this text ends when a test says so, by a POST to /word, or when it is interrupted."""
LONG, LONGER = 50, 20
"""A faithful host takes longer for each step of an order of so many: the most there are, which are to be canceled."""
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
SIDE = 8


@dataclass
class Item:
    """A prompt in the queue, as ComfyUI has it."""

    number: int
    prompt_id: str
    prompt: dict[str, dict[str, Any]]
    extra: dict[str, Any]
    interrupted: asyncio.Event = field(default_factory=asyncio.Event)

    def to_json(self) -> list[Any]:
        return [self.number, self.prompt_id, self.prompt, self.extra, ["save"]]


class SimulatedHost:
    """Args:
    seconds: what a prompt takes.
    faithful: it takes that for each step, tells of its steps, and its pictures have the order's size and quality.
    """

    def __init__(
        self, seconds: float, models: Sequence[str] = MODELS, memory_gb: float = 8.0, faithful: bool = False
    ) -> None:
        self.seconds, self.models, self.memory_gb, self.faithful = seconds, models, memory_gb, faithful
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.waiting: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, Any] = {}
        self.inputs: dict[str, bytes] = {}
        self.outputs: dict[str, bytes] = {}
        self.number, self.stir, self.word = 0, asyncio.Event(), asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/system_stats", self._stats)
        app.router.add_get("/object_info/{node}", self._object_info)
        app.router.add_get("/models/{folder}", self._models)
        app.router.add_post("/upload/image", self._upload)
        app.router.add_post("/prompt", self._prompt)
        app.router.add_get("/queue", self._queue)
        app.router.add_post("/queue", self._delete)
        app.router.add_get("/history/{id}", self._history)
        app.router.add_post("/interrupt", self._interrupt)
        app.router.add_get("/view", self._view)
        app.router.add_get("/ws", self._socket)
        app.router.add_post("/word", self._give_word)

        async def start(_: web.Application) -> None:
            self.task = asyncio.create_task(self._work())

        app.on_startup.append(start)
        return app

    async def _work(self) -> None:
        while True:
            while not self.waiting:
                self.stir.clear()
                await self.stir.wait()
            item = self.running = self.waiting.pop(0)
            started = int(1000 * time.time())
            await self._compute(item)
            messages: list[Any] = [["execution_start", {"timestamp": started}]]
            outputs: dict[str, Any] = {}
            if item.interrupted.is_set():
                messages.append(["execution_interrupted", {}])
            else:
                outputs = {"save": {"images": self._save(item.prompt)}}
            good = not item.interrupted.is_set()
            status = {"status_str": "success" if good else "error", "completed": good, "messages": messages}
            self.history[item.prompt_id] = {"prompt": item.to_json(), "outputs": outputs, "status": status}
            self.running = None
            await self._tell(item, "executing", node=None)

    async def _compute(self, item: Item) -> None:
        text = json.dumps(item.prompt)
        if DEADLY in text:
            os._exit(1)
        while HELD in text and not (self.word.is_set() or item.interrupted.is_set()):
            await asyncio.sleep(0.01)
        steps = item.prompt["steps"]["inputs"]["steps"] if self.faithful else 1
        seconds = None if SLOW in text else self.seconds * (LONGER if steps >= LONG else 1)
        for step in range(steps):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(item.interrupted.wait(), seconds)
                return
            if self.faithful:
                await self._tell(item, "progress", node="sample", value=step + 1, max=steps)

    async def _tell(self, item: Item, kind: str, **data: Any) -> None:
        socket = self.sockets.get(item.extra["client_id"])
        if socket is not None:
            with suppress(ConnectionError):
                await socket.send_json({"type": kind, "data": {"prompt_id": item.prompt_id, **data}})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query.get("clientId", "")] = socket
        async for _ in socket:
            pass
        return socket

    def _save(self, prompt: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
        save = prompt["save"]["inputs"]
        saved = []
        for index in range(prompt["size"]["inputs"]["batch_size"]):
            name = f"{save['filename_prefix']}_{index:05}_.{save['format']}"
            reference = self.inputs[prompt["reference"]["inputs"]["image"]]
            self.outputs[name] = picture_of(prompt, reference, index, self.faithful)
            subfolder, _, filename = name.rpartition("/")
            saved.append({"filename": filename, "subfolder": subfolder, "type": "output"})
        return saved

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({"devices": [{"vram_total": int(self.memory_gb * (1 << 30))}]})

    async def _object_info(self, request: web.Request) -> web.Response:
        return web.json_response({request.match_info["node"]: {}})

    async def _models(self, request: web.Request) -> web.Response:
        start = f"{request.match_info['folder']}/"
        return web.json_response([name.removeprefix(start) for name in self.models if name.startswith(start)])

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image, subfolder = form["image"], str(form.get("subfolder", ""))
        assert isinstance(image, web.FileField)
        self.inputs[f"{subfolder}/{image.filename}"] = image.file.read()
        return web.json_response({"name": image.filename, "subfolder": subfolder, "type": "input"})

    async def _prompt(self, request: web.Request) -> web.Response:
        order = await request.json()
        if order["prompt"]["reference"]["inputs"]["image"] not in self.inputs:
            error = {"class_type": "LoadImage", "errors": [{"message": "Invalid image", "details": "image"}]}
            return web.json_response({"error": {"message": "bad"}, "node_errors": {"reference": error}}, status=400)
        self.number += 1
        extra = {"client_id": order.get("client_id")}
        self.waiting.append(Item(self.number, order["prompt_id"], order["prompt"], extra))
        self.stir.set()
        return web.json_response({"prompt_id": order["prompt_id"], "number": self.number, "node_errors": {}})

    async def _queue(self, _: web.Request) -> web.Response:
        running = [self.running.to_json()] if self.running else []
        waiting = [item.to_json() for item in self.waiting]
        return web.json_response({"queue_running": running, "queue_pending": waiting})

    async def _delete(self, request: web.Request) -> web.Response:
        ids = (await request.json()).get("delete", [])
        self.waiting = [item for item in self.waiting if item.prompt_id not in ids]
        return web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        return web.json_response({id: self.history[id]} if id in self.history else {})

    async def _interrupt(self, request: web.Request) -> web.Response:
        id = (await request.json()).get("prompt_id")
        if self.running and self.running.prompt_id == id:
            self.running.interrupted.set()
        return web.Response()

    async def _give_word(self, _: web.Request) -> web.Response:
        self.word.set()
        return web.Response()

    async def _view(self, request: web.Request) -> web.Response:
        name = f"{request.query['subfolder']}/{request.query['filename']}"
        if name not in self.outputs:
            return web.Response(status=404)
        return web.Response(body=self.outputs[name])


def picture_of(prompt: dict[str, dict[str, Any]], reference: bytes, index: int = 0, faithful: bool = False) -> bytes:
    """What a prompt and its reference make: always the same bytes, whatever the host, and others for other orders.

    Args:
        faithful: in the order's size and quality, else as small as can be.
    """
    kept = {name: node for name, node in prompt.items() if name not in ("save", "reference")}
    with Image.open(io.BytesIO(reference)) as image:
        digest = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
    text = json.dumps([kept, digest, index], sort_keys=True)
    pixels = hashlib.shake_256(text.encode()).digest(3 * SIDE * SIDE)
    save, size, buffer = prompt["save"]["inputs"], prompt["size"]["inputs"], io.BytesIO()
    picture = Image.frombytes("RGB", (SIDE, SIDE), pixels)
    if faithful:
        picture = picture.resize((size["width"], size["height"]))
    options = {"quality": save["quality"]} if faithful else {"lossless": True} if save["format"] == "webp" else {}
    picture.save(buffer, FORMATS[save["format"]], **options)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.2, help="that a prompt takes")
    parser.add_argument("--models", nargs="*", default=MODELS, help="as FOLDER/NAME; by default the miniature's")
    parser.add_argument("--memory-gb", type=float, default=8.0)
    parser.add_argument("--faithful", action="store_true", help="--seconds for each step, and pictures in their size")
    args = parser.parse_args()
    host = SimulatedHost(args.seconds, args.models, args.memory_gb, args.faithful)
    web.run_app(host.app(), host="127.0.0.1", port=args.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
