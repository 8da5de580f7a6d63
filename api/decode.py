"""Pictures of any known format as PNG files: the work of a process of its own, which may be killed.

As a program it imports nothing of this pack, takes pictures on standard input and is ended by its end (decoder.py is
the other side). Whatever a picture says about itself is not believed: it is decoded to its last row, upright by its
EXIF, first frame, in 8-bit RGB or RGBA.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules are the pack's

from PIL import Image, ImageOps

MIN_SIDE = 4
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_SCANS = 100
"""Of a JPEG. Progressive ones have about 10; each costs as much time as the whole picture."""
BYTES_PER_PIXEL = 20
"""Of memory, at most: as it is decoded, turned and converted, with a progressive JPEG's coefficients beside it."""
SPARE_BYTES = 512 << 20

# What Pillow's decoders are known to raise on damaged files; anything else is a fault of ours and is to be seen.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


class Refused(Exception):
    """Why a picture is not taken: the rest of a sentence that begins with the name of its field."""


def convert(content: bytes, max_megapixels: float, target: Any, admit: Callable[[int], None] | None = None) -> None:
    """Decode a picture and write it as PNG.

    Args:
        target: a binary file.
        admit: is called with the number of pixels before they are decoded.

    Raises:
        Refused: no picture, a damaged one, one of too many or too few pixels, of too many scans or with too much text.
    """
    try:
        if count_scans(content) > MAX_SCANS:
            raise Refused(f"is a JPEG of more than {MAX_SCANS} scans.")
        if size := webp_size(content):
            _check_size(size, max_megapixels)
        with _without_pillows_bound(), Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            _check_size(picture.size, max_megapixels)
            if admit:
                admit(picture.width * picture.height)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            plain = _to_rgb(picture)
    except DAMAGED as error:
        if "MAX_TEXT" in str(error):  # of a PNG that is whole: Pillow's bounds of what its texts and profile unpack to
            raise Refused("has texts or a colour profile of several MB in it; send it without them.") from None
        raise Refused("is no whole PNG, JPEG, WebP, GIF or BMP picture.") from None
    except MemoryError:
        raise Refused("needs more memory than a picture of its size may.") from None
    plain.info = {}  # nothing but pixels goes on
    plain.save(target, "PNG", compress_level=1)


def count_scans(content: bytes) -> int:
    """How many scans a JPEG has, found as libjpeg finds them: marker by marker, over the lengths of their segments."""
    if content[:2] != b"\xff\xd8":
        return 0
    place, scans = 2, 0
    while (place := content.find(b"\xff", place)) >= 0 and place + 4 <= len(content):
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:  # a byte of data, or a marker without a segment
            place += 2
        elif marker == 0xD9:
            break
        else:
            scans += marker == 0xDA
            place += 2 + max(2, int.from_bytes(content[place + 2 : place + 4], "big"))
    return scans


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP, of which Pillow has a canvas made before it can be asked how large it is."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = (int.from_bytes(content[place : place + 2], "little") & 0x3FFF for place in (26, 28))
    return (width, height) if kind == b"VP8 " and content[23:26] == b"\x9d\x01\x2a" else None


def _check_size(size: tuple[int, int], max_megapixels: float) -> None:
    width, height = size
    if width * height > max_megapixels * 1e6:
        raise Refused(f"has {width} x {height} pixels; {max_megapixels:g} million are the most.")
    if min(width, height) < MIN_SIDE:
        raise Refused(f"has {width} x {height} pixels; {MIN_SIDE} a side are the least.")


@contextmanager
def _without_pillows_bound() -> Iterator[None]:
    """Pillow's bound of pixels is another one than ours and is met first: neither the size nor our bound could be told
    then, and settings that allow more would be of no use."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB, or RGBA where something is transparent."""
    if picture.mode.startswith("I"):
        import numpy as np

        # Pillow's own conversion clips 16 bits to 8 instead of scaling them.
        levels_HW = np.asarray(picture)
        return Image.fromarray((levels_HW.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


class _Digesting(io.RawIOBase):
    """A file to write, and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, part: Any) -> int:
        self.sha256.update(part)
        return self.file.write(part)


def _limit(max_megapixels: float, seconds: float) -> None:
    """Bound memory, and processor time from now on, where the system can; the parent has a clock besides."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        end = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            memory = int(max_megapixels * 1e6 * BYTES_PER_PIXEL) + SPARE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _say(**words: Any) -> None:
    sys.stdout.buffer.write(json.dumps(words).encode() + b"\n")
    sys.stdout.buffer.flush()


def _serve_one(wish: dict[str, Any]) -> None:
    content = sys.stdin.buffer.read(wish["bytes"])
    _limit(wish["max_megapixels"], wish["seconds"])

    def admit(pixels: int) -> None:
        _say(pixels=pixels)
        if sys.stdin.buffer.readline() != b"go\n":
            raise SystemExit

    try:
        with open(os.open(wish["path"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            target = _Digesting(file)
            convert(content, wish["max_megapixels"], target, admit)
        _say(digest=target.sha256.hexdigest())
    except Refused as refused:
        _say(refused=str(refused))
    except OSError as error:
        _say(unwritten=error.strerror or str(error))


def main() -> None:
    while line := sys.stdin.buffer.readline():
        _serve_one(json.loads(line))


if __name__ == "__main__":
    main()
