"""Pictures that cost more than they weigh: refused in bounded time and memory, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import io
import os
import resource
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from caller import encoded, load, png
from PIL import Image

from tools import bombs

decoders, decode, errors = load("decoder"), load("decode"), load("errors")
Settings = load("settings").Settings


def with_decoder(test: Callable[[Any], Awaitable[Any]], **settings: Any) -> Any:
    async def run() -> Any:
        decoder = decoders.Decoder(Settings(**settings))
        try:
            return await test(decoder)
        finally:
            await decoder.close()

    return asyncio.run(run())


def refusal(content: bytes, folder: Path, **settings: Any) -> str:
    async def test(decoder: Any) -> None:
        await decoder.decode(content, "image", folder)

    with pytest.raises(errors.ApiError) as refused:
        with_decoder(test, **settings)
    assert (refused.value.status, refused.value.field) == (400, "image")
    assert not list(folder.iterdir())
    return str(refused.value)


def spent() -> float:
    """Processor seconds of this process's children that have ended, whatever else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_picture_becomes_a_file_of_pixels(tmp_path: Path) -> None:
    async def test(decoder: Any) -> None:
        for content in (png(), encoded(Image.new("CMYK", (64, 48)), "JPEG"), png(color=(1, 2, 3, 4))):
            made = await decoder.decode(content, "image", tmp_path)
            assert Image.open(made.path).size == Image.open(io.BytesIO(content)).size
            assert len(made.digest) == 64
        assert len(decoder.idle) == 1  # one process did it all

    with_decoder(test)


def test_scans_are_counted_as_they_are_read() -> None:
    noise = Image.effect_noise((300, 200), 60).convert("RGB")
    plain, progressive = encoded(noise, "JPEG"), encoded(noise, "JPEG", progressive=True)
    assert decode.count_scans(plain) == 1 and 5 < decode.count_scans(progressive) < 20
    assert decode.count_scans(bombs.jpeg_of_scans(64, 250)) == 251
    # What lies in segments and behind the end is no scan: thumbnails, colour profiles, films of phones.
    segment = b"\xff\xe5" + (2 + 3000).to_bytes(2, "big") + b"\xff\xda" * 1500
    assert decode.count_scans(plain[:2] + segment + plain[2:] + b"\xff\xda" * 5000) == 1
    assert decode.count_scans(png()) == 0 and decode.count_scans(b"\xff\xd8\xff") == 0


@pytest.mark.parametrize(
    "content",
    [bombs.jpeg_of_scans(8000, 1800), b"\xff\xd8\xff\xff" + bombs.jpeg_of_scans(2000, 500)[3:]],
    ids=["1,800 scans", "behind a fill byte"],
)
def test_a_jpeg_of_many_scans_is_refused_by_its_structure(tmp_path: Path, content: bytes) -> None:
    start = spent()
    assert "more than 100 scans" in refusal(content, tmp_path)
    assert spent() - start < 3


def gif_of_clears(side: int) -> bytes:
    """A GIF whose codes begin anew at every pixel."""
    return encoded(Image.effect_noise((side, side), 90).convert("P"), "GIF")


def animation(kind: str, frames: int) -> bytes:
    first, *others = [Image.effect_noise((300, 300), 50 + index).convert("RGB") for index in range(frames)]
    return encoded(first, kind, save_all=True, append_images=others)


GOOD: dict[str, Callable[[], bytes]] = {
    "GIF of noise": lambda: gif_of_clears(1500),
    "WebP of 40 frames": lambda: animation("WEBP", 40),
    "PNG of 40 frames": lambda: animation("PNG", 40),
    "lossless WebP": lambda: encoded(Image.effect_noise((1500, 1500), 90).convert("RGB"), "WEBP", lossless=True),
    "JPEG of 100 scans": lambda: bombs.jpeg_of_scans(1000, 99),
}


@pytest.mark.parametrize("kind", GOOD)
def test_costly_and_good(tmp_path: Path, kind: str) -> None:
    content = GOOD[kind]()

    async def test(decoder: Any) -> Any:
        return await decoder.decode(content, "image", tmp_path)

    assert with_decoder(test).path.is_file()


BAD: dict[str, Callable[[], bytes]] = {
    "time: BMP of line ends": lambda: bombs.bmp_of_runs(15_000_000, 4, ends=4),
    "pixels: PNG of zeros": lambda: bombs.png_of_nothing(20_000, 4_000),
    "pixels: WebP of the largest canvas": lambda: webp_canvas(16383, 16383),
    "pixels: GIF of a large screen": lambda: (
        b"GIF89a\xff\xff\xff\xff\0\0\0" + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x01\x44\0;"
    ),
    "TIFF": lambda: encoded(Image.new("RGB", (64, 64)), "TIFF"),
    "AVIF": lambda: encoded(Image.new("RGB", (64, 64)), "AVIF"),
}


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP that says its canvas is large and holds one small frame."""
    frame = encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    head = b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    place = bytes(6) + (7).to_bytes(3, "little") * 2 + bytes(4)
    parts = b"VP8X" + (10).to_bytes(4, "little") + head + b"ANIM" + (6).to_bytes(4, "little") + bytes(6)
    parts += b"ANMF" + (len(place) + len(frame)).to_bytes(4, "little") + place + frame
    return b"RIFF" + (4 + len(parts)).to_bytes(4, "little") + b"WEBP" + parts


@pytest.mark.parametrize("kind", BAD)
def test_costly_and_bad(tmp_path: Path, kind: str) -> None:
    content = BAD[kind]()
    assert len(content) < 400_000
    start, peak = spent(), Peak()
    with peak:
        refusal(content, tmp_path, decode_seconds=2.0)
    assert spent() - start < 20
    assert peak.megabytes < 2000


class Peak:
    """The most memory that processes which this one starts meanwhile held, together: those of its decoders."""

    megabytes = 0.0

    def __enter__(self) -> Peak:
        self.others = {child.pid for child in psutil.Process().children(recursive=True)}
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ending.wait(0.02):
            total = 0
            for child in psutil.Process().children(recursive=True):
                if child.pid in self.others:  # a server of other tests
                    continue
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
            self.megabytes = max(self.megabytes, total / (1 << 20))


def test_nobody_waits_for_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one picture takes all the time it may, others are decoded, and this process answers.

    Its process is held meanwhile, so that it takes no more of that time than a second, however long the others take.
    """
    monkeypatch.setattr(decoders, "CLOCK_FACTOR", 60.0)
    bomb = bombs.bmp_of_runs(15_000_000, 4, ends=4)
    others = {child.pid for child in psutil.Process().children(recursive=True)}

    async def busy() -> psutil.Process:
        while True:
            for child in psutil.Process().children(recursive=True):
                used = 0.0 if child.pid in others else child.cpu_times().user
                if used > 0.5:
                    return child
            await asyncio.sleep(0.02)

    async def test(decoder: Any) -> None:
        costly = asyncio.create_task(decoder.decode(bomb, "image", tmp_path))
        process = await asyncio.wait_for(busy(), 120)
        process.suspend()
        for _ in range(10):
            await decoder.decode(png(), "image", tmp_path)
            assert not costly.done()
        process.resume()
        with pytest.raises(errors.ApiError, match="takes more than 3 s"):
            await costly

    with_decoder(test, decode_seconds=3.0)


def test_four_large_pictures_at_once(tmp_path: Path) -> None:
    """64 megapixels with alpha, four times: decoded one after the other, since that is what the budget holds."""
    content = bombs.png_of_nothing(8000, 8000)

    async def test(decoder: Any) -> None:
        await asyncio.gather(*(decoder.decode(content, "image", tmp_path) for _ in range(4)))

    with Peak() as peak:
        with_decoder(test, decode_seconds=60.0)
    assert len(list(tmp_path.iterdir())) == 4
    assert peak.megabytes < 900, peak.megabytes


def test_the_budget_is_first_come_first_served() -> None:
    async def run() -> list[int]:
        budget, order = decoders.PixelBudget(10), []

        async def take(pixels: int) -> None:
            async with budget.take(pixels):
                order.append(pixels)
                await asyncio.sleep(0.01)

        await asyncio.gather(*map(take, (6, 10, 5, 5, 99)))
        assert budget.free == 10
        return order

    assert asyncio.run(run()) == [6, 10, 5, 5, 99]


def test_a_killed_process_costs_one_picture(tmp_path: Path) -> None:
    async def test(decoder: Any) -> None:
        await decoder.decode(png(), "image", tmp_path)
        (process,) = decoder.idle
        os.kill(process.pid, 9)
        await process.wait()
        await decoder.decode(png(), "image", tmp_path)
        (another,) = decoder.idle
        assert another.pid != process.pid

    with_decoder(test)


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A full disk, by a limit that writing meets in the same way, and a folder that is none."""
    noise = np.random.default_rng(1).integers(0, 256, (300, 300, 3), np.uint8)
    content = encoded(Image.fromarray(noise), "PNG")

    async def test(decoder: Any) -> None:
        await decoder.decode(png(), "image", tmp_path)
        (process,) = decoder.idle
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
        for folder in (tmp_path / "full", tmp_path / "file"):
            with pytest.raises(errors.ApiError, match="cannot keep the picture now") as refused:
                await decoder.decode(content, "image", folder)
            assert refused.value.status == 503
        assert not list((tmp_path / "full").iterdir())

    (tmp_path / "file").write_bytes(b"")
    with_decoder(test)
