"""Requests that cost their sender little and a careless server much: pictures of few bytes, bodies of many parts."""

from __future__ import annotations

import struct
import zlib


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A grey progressive JPEG: one scan of means, then `scans` that say "nothing" of every block."""
    blocks = ((side + 7) // 8) ** 2
    head = _segment(0xDB, bytes([0, *[1] * 64])) + _segment(
        0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\0"
    )
    tables = b"".join(_segment(0xC4, bytes([kind, 1, *[0] * 15, value])) for kind, value in ((0, 0), (0x10, 0xE0)))
    means = _segment(0xDA, b"\x01\x01\0\0\0\0") + bytes(-(-blocks // 8))
    # Code 0 and 14 bits: a run of 16384 blocks and more without a coefficient.
    runs = "".join(f"0{min(blocks - start, 32767) - 16384 & 0x3FFF:014b}" for start in range(0, blocks, 32767))
    runs += "1" * (-len(runs) % 8)
    data = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    nothing = _segment(0xDA, b"\x01\x01\0\x01\x3f\0") + data
    return b"\xff\xd8" + head + tables + means + nothing * scans + b"\xff\xd9"


def bmp_of_runs(width: int, height: int, ends: int) -> bytes:
    """A run-length coded BMP of `ends` rows of one pixel, which Pillow fills up pixel by pixel in Python."""
    data = b"\x01\0\0\0" * ends + b"\0\x01"
    palette = bytes(4 * 256)
    offset = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + palette + data


def png_of_nothing(width: int, height: int) -> bytes:
    """An RGBA PNG of zeros, some thousand times smaller than its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer, row = zlib.compressobj(9), bytes(1 + 4 * width)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def json_of_lists(size: int) -> bytes:
    """A body of so many bytes that is one flat list of empty lists."""
    return b'{"image": [' + b"[]," * (size // 3) + b"[]]}"


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
