"""The reference of a request: from a URL, a data URI or base64, to a PNG that ComfyUI's Load Image reads.

Whatever the picture says about itself is not believed: it is decoded, upright by its EXIF, first frame, in RGB or RGBA.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from .errors import ApiError
from .fetch import fetch
from .settings import Settings

MIN_SIDE = 4
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

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
    Image.DecompressionBombError,
)


async def read_source(source: str, field: str, settings: Settings) -> bytes:
    """The bytes of a picture that a request names or carries.

    Raises:
        ApiError: 400 with the field's name.
    """
    limit = int(settings.max_image_mb * (1 << 20))
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*):", source)
    if scheme is None:
        return _decode_base64(source, field, limit)
    if scheme[1].lower() != "data":
        return await fetch(source.strip(), field, limit, settings.fetch_seconds, settings.trusted_hosts)
    head, comma, data = source.strip().partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ApiError(400, f"{field}: a data URI must be data:image/...;base64, and then the picture.", field)
    return _decode_base64(data, field, limit)


def to_png(content: bytes, field: str, max_megapixels: float) -> bytes:
    """A picture of any known format as PNG. It is decoded to its last row; its size is looked at before that.

    Raises:
        ApiError: 400 with the field's name: no picture, a damaged one, or one of too many or too few pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            size = f"{picture.width} x {picture.height}"
            if picture.width * picture.height > max_megapixels * 1e6:
                raise ApiError(400, f"{field} has {size} pixels; {max_megapixels:g} million are the most.", field)
            if min(picture.size) < MIN_SIDE:
                raise ApiError(400, f"{field} has {size} pixels; {MIN_SIDE} a side are the least.", field)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            plain = _to_rgb(upright)
    except DAMAGED:
        raise ApiError(400, f"{field} is no whole PNG, JPEG, WebP, GIF or BMP picture.", field) from None
    buffer = io.BytesIO()
    plain.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB, or RGBA where something is transparent. Nothing but pixels is kept."""
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits to 8 instead of scaling them.
        levels_HW = np.asarray(picture).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(levels_HW.astype(np.uint8)).convert("RGB")
    plain = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    return Image.frombytes(plain.mode, plain.size, plain.tobytes())


def _decode_base64(text: str, field: str, limit: int) -> bytes:
    compact = "".join(text.split())
    if len(compact) * 3 // 4 > limit:
        raise ApiError(400, f"{field}: the picture has more than {limit >> 20} MB.", field)
    try:
        return base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{field} is neither a URL nor a data URI nor base64.", field) from None
