"""Pictures as files, with the workflow in them.

Where the workflow goes is where ComfyUI's page looks for it: text chunks in PNG, and in WebP the EXIF tags Make and
Model with "workflow:" and "prompt:" before the JSON. The page does not read JPEG; it gets the same EXIF, and
web/jpeg_workflow.js teaches the page to read it.

Shapes: H height, W width, C channels (1 grey, 3 colour, 4 with alpha).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

FORMATS = ("png", "jpg", "webp")

_TAGS = {"prompt": 0x0110, "workflow": 0x010F}
_FREE_TAG = 0xFE00
_SEGMENT = 65_000
_EXIF = b"Exif\x00\x00"


def check_pictures(shape: Sequence[int]) -> None:
    """Raises ValueError: this is no shape of an IMAGE, as that of a picture without its batch."""
    if len(shape) != 4:
        raise ValueError(f"The images have shape {tuple(shape)}; [batch, height, width, channels] is needed.")


def encode_picture(pixels_HWC: np.ndarray, kind: str, quality: int, texts: Mapping[str, str]) -> bytes:
    """A file's content.

    Args:
        pixels_HWC: values in 0..1; what lies outside is clipped. JPEG shows transparent parts on white.
        kind: one of FORMATS.
        quality: 1 to 100, for JPEG and WebP.
        texts: JSON in ASCII by key; "workflow" and "prompt" are what ComfyUI's page reads.

    Raises:
        ValueError: a picture that the format cannot hold.
    """
    picture = to_picture(pixels_HWC)
    buffer = io.BytesIO()
    if kind == "png":
        picture.save(buffer, "PNG", pnginfo=_png_texts(texts), compress_level=4)
        return buffer.getvalue()
    if kind == "webp":
        if max(picture.size) > 16383:
            raise ValueError(f"The picture is {picture.width} x {picture.height}; WebP ends at 16383 pixels a side.")
        picture.save(buffer, "WEBP", quality=quality, method=4, exif=_exif(texts) if texts else b"")
        return buffer.getvalue()
    coarse_colour = quality < 95
    _without_alpha(picture).save(buffer, "JPEG", quality=quality, optimize=True, subsampling=2 * coarse_colour)
    return _put_exif(buffer.getvalue(), _exif(texts)) if texts else buffer.getvalue()


def to_picture(pixels_HWC: np.ndarray) -> Image.Image:
    values = np.nan_to_num(pixels_HWC.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
    levels_HWC = (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    if levels_HWC.shape[2] not in (1, 3, 4):
        raise ValueError(f"The picture has {levels_HWC.shape[2]} channels; 1, 3 or 4 can be saved.")
    return Image.fromarray(levels_HWC[..., 0] if levels_HWC.shape[2] == 1 else levels_HWC)


def _without_alpha(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _png_texts(texts: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    return chunks


def _exif(texts: Mapping[str, str]) -> bytes:
    """EXIF with one ASCII tag a text, as `key:text`."""
    exif = Image.Exif()
    for index, (key, text) in enumerate(texts.items()):
        exif[_TAGS.get(key, _FREE_TAG + index)] = f"{key}:{text}"
    return exif.tobytes()


def _put_exif(jpeg: bytes, exif: bytes) -> bytes:
    """A segment of JPEG ends at 64 KB, a workflow need not: longer EXIF goes on in the next one, as Pillow reads it."""
    return jpeg[:2] + b"".join(_segments(exif.removeprefix(_EXIF))) + jpeg[2:]


def _segments(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _SEGMENT):
        part = _EXIF + body[start : start + _SEGMENT]
        yield b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part
