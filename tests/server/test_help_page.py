"""The help pages in ComfyUI's real page, in the panel at its usual width: pictures, tables and links."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tools import browser
from tools.client import Client
from tools.server import Server

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="no Chromium is installed")

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "nodes" / "web" / "docs"
PAGE = "[...document.querySelectorAll('.node-help-content :is(.markdown-content, .comfy-markdown-content)')].at(-1)"
SELECT = """(() => {
  app.graph.clear();
  const node = LiteGraph.createNode(%s);
  app.graph.add(node);
  node.pos = [100, 100];
  app.canvas.selectNode(node);
})()"""
OPEN = """(() => {
  const button = document.querySelector('[data-testid="info-button"]');
  button?.click();
  return Boolean(button);
})()"""
SHOWN = """(() => {
  const page = %s;
  const title = page?.querySelector("h1")?.innerText;
  if (title !== %s || [...page.querySelectorAll("img")].some((image) => !image.complete)) return null;
  return {
    wide: [...page.querySelectorAll("table")].filter((table) => table.scrollWidth > table.clientWidth + 1)
      .map((table) => table.innerText),
    missing: [...page.querySelectorAll("img")].filter((image) => !image.naturalWidth).map((image) => image.src),
    overflows: page.scrollWidth > page.clientWidth + 1,
    pictures: page.querySelectorAll("img").length,
    links: [...page.querySelectorAll("a")].map((link) => link.getAttribute("href").replace(/^.extensions.*docs./, "")),
  };
})()"""


def pages(language: str) -> dict[str, Path]:
    """The page of each node in a language, as ComfyUI looks for it."""
    names = [path.stem for path in sorted(DOCS.glob("*.md"))]
    own = {name: DOCS / name / f"{language}.md" for name in names}
    return {name: path if path.exists() else DOCS / f"{name}.md" for name, path in own.items()}


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_every_page_fits_the_panel(server: Server, client: Client, tmp_path: Path, language: str) -> None:
    client.request("/settings/Comfy.TutorialCompleted", True)
    client.request("/settings/Comfy.Locale", language)

    async def look() -> None:
        async with browser.Browser(server.url, tmp_path / "chromium", (1440, 800)) as page:
            await page.started("ReduxApply")
            wrong = {}
            for name, path in pages(language).items():
                title = path.read_text("utf-8").splitlines()[0].removeprefix("# ")
                found = await open_page(page, name, title)
                lost = [link for link in found["links"] if not (DOCS / link).is_file()]
                if found["wide"] or found["missing"] or found["overflows"] or lost or not found["pictures"]:
                    wrong[name] = found
            assert not wrong

    try:
        asyncio.run(look())
    finally:
        client.request("/settings/Comfy.Locale", "en")


async def open_page(page: browser.Browser, name: str, title: str) -> Any:
    await page.evaluate(SELECT % json.dumps(name))
    if not await page.evaluate(f"Boolean({PAGE})"):
        await page.until(OPEN)
    return await page.until(SHOWN % (PAGE, json.dumps(title)))


def test_a_link_shows_that_page_in_the_panel(server: Server, client: Client, tmp_path: Path) -> None:
    client.request("/settings/Comfy.TutorialCompleted", True)

    async def look() -> None:
        async with browser.Browser(server.url, tmp_path / "chromium", (1440, 800)) as page:
            await page.started("ReduxApply")
            await open_page(page, "ReduxApply", "Apply Redux")
            await page.evaluate(f"{PAGE}.querySelector('a[href$=\"ReduxEncode.md\"]').click()")
            assert await page.until(SHOWN % (PAGE, json.dumps("Encode Reference")))
            await page.evaluate(f"{PAGE}.querySelector('a[href$=\"ReduxPool.md\"]').click()")
            assert await page.until(SHOWN % (PAGE, json.dumps("Pool Reference")))
            for title in ("Encode Reference", "Apply Redux"):
                await page.evaluate(f"{PAGE}.querySelector('a[aria-label=back]').click()")
                assert await page.until(SHOWN % (PAGE, json.dumps(title)))
            await page.evaluate(SELECT % json.dumps("ReduxKeep"))
            assert await page.until(SHOWN % (PAGE, json.dumps("Keep References")))

    asyncio.run(look())
