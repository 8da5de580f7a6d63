"""`make demo` from its start to its end, two at once, and ended early: no server and no folder stays behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest
from PIL import Image

from tools.client import Client, ClientError, Result
from tools.demo import _read_image
from tools.errors import ToolError

ROOT = Path(__file__).resolve().parents[2]


class Demo:
    """A running demo whose scratch folder, and so its server, can be told from all others."""

    def __init__(self, folder: Path, output: Path, *arguments: str) -> None:
        self.scratch = folder
        self.scratch.mkdir()
        command = [sys.executable, "-m", "tools.demo", "--output", str(output), *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def servers(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter(["cmdline"]) if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        words = process.info["cmdline"] or []
        return process.pid != self.process.pid and any(str(self.scratch) in word for word in words)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    running: list[Demo] = []

    def make(*arguments: str) -> Demo:
        running.append(Demo(tmp_path / f"scratch{len(running)}", tmp_path / "output", *arguments))
        return running[-1]

    yield make
    for demo in running:
        for process in (demo.process, *demo.servers()):
            process.kill()
        demo.process.wait()


def test_two_at_once_write_their_own_pictures(start: Callable[..., Demo], tmp_path: Path) -> None:
    demos = [start() for _ in range(2)]
    printed = [demo.process.communicate(timeout=500) for demo in demos]

    assert [demo.process.returncode for demo in demos] == [0, 0], printed
    folders = sorted((tmp_path / "output").iterdir())
    assert [folder.name for folder in folders] == ["demo-001", "demo-002"]
    for folder in folders:
        pictures = sorted(folder.iterdir())
        names = {path.name for path in pictures}
        assert {"sheet.png", "variation-1.png", "strength-0.00.png", "prompt-1.png", "regions-1.png"} <= names
        for name in ("variation-1.png", "regions-1.png"):  # and not the sheet of the influence, which is the second
            assert Image.open(folder / name).size == (128, 128)
        assert sum(out.split() == [str(path) for path in pictures] for out, _ in printed) == 1
    for demo in demos:
        assert demo.servers() == []
        assert list(demo.scratch.glob("redux-*")) == []


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "at the start"),
        (signal.SIGTERM, "at the start"),
        (signal.SIGINT, "while sampling"),
        (signal.SIGKILL, "while sampling"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_ended_early(number: signal.Signals, moment: str, start: Callable[..., Demo], tmp_path: Path) -> None:
    demo = start()
    early = (lambda: bool(demo.servers())) if moment == "at the start" else (lambda: any(tmp_path.glob("output/*/*")))
    assert within(300, early)

    demo.process.send_signal(number)
    _, err = demo.process.communicate(timeout=120)

    assert demo.process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number], err
    assert "Traceback" not in err
    if number == signal.SIGKILL:
        assert within(60, lambda: not demo.servers())
    else:
        assert demo.servers() == []
        assert list(demo.scratch.glob("redux-*")) == []


def test_ctrl_c_that_comes_as_a_workflow_ends_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def end(*_: object) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        return Result("the prompt")

    monkeypatch.setattr(Client, "_run", end)
    with pytest.raises(KeyboardInterrupt):
        Client("http://127.0.0.1:1").run({})


def test_a_workflow_that_takes_too_long_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(*_: object) -> Result:
        await asyncio.sleep(60)
        return Result("the prompt")

    monkeypatch.setattr(Client, "_run", wait)
    with pytest.raises(ClientError, match="not done after 0 s"):
        Client("http://127.0.0.1:1").run({}, timeout=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--image", "no-such.jpg"], "The picture no-such.jpg cannot be read: No such file or directory."),
        (["--image", "README.md"], "The picture README.md cannot be read"),
        (["--workflow", "no-such.json"], "The workflow no-such.json cannot be read: No such file or directory."),
        (["--output", "README.md"], "No pictures can be written to README.md: File exists."),
    ],
    ids=["no picture", "not a picture", "no workflow", "no folder"],
)
def test_wrong_arguments_are_one_sentence(arguments: list[str], sentence: str, start: Callable[..., Demo]) -> None:
    demo = start(*arguments)
    _, err = demo.process.communicate(timeout=120)
    assert demo.process.returncode == 1
    assert err.startswith(f"error: {sentence}")
    assert err.count("\n") == 1


def test_a_picture_that_is_too_large_is_one_sentence(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ToolError, match=r"bomb.png cannot be read: Image size \(400000000 pixels\) exceeds limit"):
        _read_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_damage_to_a_picture_is_one_sentence(tmp_path: Path) -> None:
    """Pillow's readers raise all kinds of errors."""
    random, path, said = Random(3), tmp_path / "damaged", list[str]()
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "DDS", "SGI", "PPM", "TGA", "PCX"):
        Image.effect_noise((40, 40), 50).convert("RGB").save(path, kind)
        whole = path.read_bytes()
        for _ in range(40):
            content = bytearray(whole)
            for _ in range(6):
                content[random.randrange(min(len(content), 200))] = random.randrange(256)
            path.write_bytes(content[: random.randrange(1, len(content) + 1)])
            try:
                assert _read_image(path).mode == "RGB"
            except ToolError as error:
                said.append(str(error))
    assert len(said) > 100
    assert all(re.fullmatch(r"The picture \S+/damaged cannot be read: [^\n]*[^.\n]\.", text) for text in said)


def test_sixteen_bits_and_a_turned_camera_are_read_as_load_image_reads_them(tmp_path: Path) -> None:
    levels_HW = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(4, 16)
    Image.fromarray(levels_HW).save(tmp_path / "deep.png")
    found_HW = np.asarray(_read_image(tmp_path / "deep.png"))[..., 0]
    assert np.abs(found_HW.astype(int) - levels_HW / 257).max() <= 1
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: the first row is the right side
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert _read_image(tmp_path / "turned.jpg").size == (20, 30)


def test_ctrl_c_while_a_program_is_imported_is_one_line() -> None:
    code = """
import os, signal, sys
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "tools.tour":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Slow())
sys.argv = ["tools", "demo"]
from tools.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr, done.stdout) == (130, "\nStopped.\n", "")


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False
