"""Just enough of a headless Chromium to look at ComfyUI's page, over its own debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PATIENCE = 120.0
"""Seconds after which what the page does not do is taken for missing; a busy machine is slow, not wrong."""
FRAMES, REST = 8, 500
"""Drawings of the page, and milliseconds at least, in which what moves at all has moved. A machine that is busy or has
no GPU may draw three times a second."""
FIRST_WORKFLOW = 8
"""Seconds for which the page is given time to fill its first workflow."""


class Browser:
    """One page. `async with Browser(url, folder) as page: await page.evaluate("1 + 1")`."""

    def __init__(self, url: str, folder: Path, size: tuple[int, int] = (1400, 900)) -> None:
        self.url, self.folder, self.size = url, folder, size
        self.numbers = itertools.count(1)

    async def __aenter__(self) -> Browser:
        assert PROGRAM is not None
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags += [f"--user-data-dir={self.folder}", f"--window-size={self.size[0]},{self.size[1]}"]
        flags += ["--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        log = self.folder / "log"
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            self.process = subprocess.Popen([PROGRAM, *flags, "about:blank"], stdout=output, stderr=output)
        self.session = aiohttp.ClientSession()
        try:
            place = await self._find_page(await self._read_port(log))
            self.socket = await self.session.ws_connect(place, max_msg_size=0)
            await self.call("Page.enable")
            await self.call("Page.navigate", url=self.url)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.session.close()
        self.process.kill()
        self.process.wait()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = json.loads((await self.socket.receive(timeout=PATIENCE)).data)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, awaited when it is a promise."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = PATIENCE) -> Any:
        """The first true value of an expression."""
        end = asyncio.get_running_loop().time() + seconds
        while not (value := await self.evaluate(script)):
            assert asyncio.get_running_loop().time() < end, f"The page does not come to {script!r}."
            await asyncio.sleep(0.1)
        return value

    async def still(self, script: str, seconds: float = PATIENCE) -> Any:
        """The value of an expression once it has stayed the same while the page was drawn FRAMES times.

        A busy machine draws late what it does late, so this is the page's own measure of time.
        """
        more = f"drawn < {FRAMES} || performance.now() < end"
        frames = f"for (let drawn = 0; {more}; drawn++) await new Promise(requestAnimationFrame)"
        pause = f"(async () => {{ const end = performance.now() + {REST}; {frames}; return null; }})()"
        end, before = asyncio.get_running_loop().time() + seconds, await self.evaluate(script)
        await self.evaluate(pause)
        while (value := await self.evaluate(script)) != before:
            assert asyncio.get_running_loop().time() < end, f"{script!r} does not come to rest; it is {value!r}."
            before = value
            await self.evaluate(pause)
        return value

    async def started(self, node_type: str, seconds: float = PATIENCE) -> None:
        """Wait until the page knows a node of the pack and has its first workflow, which would replace a test's own.

        The page shows a spinner until it has it; older ones show none any more a moment before. That workflow has
        nodes; on a first visit it is empty, and the page may or may not show its templates over it, so the wait for
        either has an end.
        """
        ready = "window.app?.graph && window.app.extensionManager?.workflow?.activeWorkflow"
        ready += " && !window.app.extensionManager.spinner"
        await self.until(f"Boolean({ready} && LiteGraph.registered_node_types.{node_type})", seconds)
        for _ in range(10 * FIRST_WORKFLOW):
            if await self.evaluate("window.app.graph._nodes.length || !!document.querySelector('[role=dialog]')"):
                return
            await asyncio.sleep(0.1)

    async def screenshot(self, path: Path, box: tuple[float, float, float, float] | None = None) -> None:
        """A PNG of the window, or of a part of it: left, top, width and height in pixels."""
        clip = {"clip": dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)} if box else {}
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot", **clip))["data"]))

    async def _find_page(self, port: int) -> str:
        """Where the page is spoken with; the browser may answer before it has one."""
        for _ in range(10 * int(PATIENCE)):
            async with self.session.get(f"http://127.0.0.1:{port}/json") as answer:
                for entry in await answer.json():
                    if entry["type"] == "page":
                        return str(entry["webSocketDebuggerUrl"])
            await asyncio.sleep(0.1)
        raise AssertionError("Chromium has no page.")

    async def _read_port(self, log: Path) -> int:
        for _ in range(10 * int(PATIENCE)):
            found = re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", log.read_text("utf-8", "replace"))
            if found:
                return int(found[1])
            await asyncio.sleep(0.1)
        raise AssertionError(f"Chromium did not start: {log.read_text('utf-8', 'replace')[-500:]}")
