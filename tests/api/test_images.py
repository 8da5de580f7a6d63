"""Bodies that claim to be pictures: each is refused with the field's name, or comes out right. Never anything else."""

from __future__ import annotations

import asyncio
import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from caller import V3, Api, base64_of, encoded, load, png, wave
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

images, errors, decoding = load("images"), load("errors"), load("decode")
Settings = load("settings").Settings

KINDS = ["PNG", "JPEG", "WEBP", "GIF", "BMP"]


def scene(mode: str = "RGB", width: int = 40, height: int = 24) -> Image.Image:
    """Four quarters of different colours, so that every turn and mirror is another picture."""
    picture = Image.new("RGB", (width, height), (220, 40, 40))
    picture.paste((40, 200, 60), (width // 2, 0, width, height // 2))
    picture.paste((50, 70, 230), (0, height // 2, width // 2, height))
    return picture.convert(mode)


def fine(picture: Image.Image, kind: str, **more: Any) -> bytes:
    """Encoded with colours that are not averaged over blocks."""
    return encoded(picture, kind, **more, **({"quality": 98, "subsampling": 0} if kind == "JPEG" else {}))


def decode(content: bytes, limit: float = 4.0) -> Image.Image:
    target = io.BytesIO()
    try:
        decoding.convert(content, limit, target)
    except decoding.Refused as refused:  # as the other process says it
        raise errors.ApiError(400, f"image {refused}", "image") from None
    return Image.open(target)


def close(a: Image.Image, b: Image.Image, tolerance: float = 6.0) -> bool:
    pixels = [np.asarray(picture.convert("RGB"), np.float32) for picture in (a, b)]
    return a.size == b.size and float(np.abs(pixels[0] - pixels[1]).mean()) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_comes_out_right(kind: str) -> None:
    found = decode(fine(scene(), kind))
    assert (found.format, found.mode) == ("PNG", "RGB") and close(found, scene())


@pytest.mark.parametrize(
    ("mode", "kind"), [("CMYK", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("P", "GIF"), ("LA", "PNG"), ("RGBA", "WEBP")]
)
def test_other_colour_modes(mode: str, kind: str) -> None:
    picture = scene("RGBA").convert(mode) if mode == "LA" else scene(mode)
    found = decode(encoded(picture, kind))
    assert found.mode in ("RGB", "RGBA") and close(found, picture.convert("RGB"))


def test_16_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 8).reshape(8, 64).astype(np.uint16)
    found = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG")))[..., 0]
    assert np.array_equal(found, ramp >> 8)


def test_transparency_is_kept() -> None:
    found = decode(png(color=(10, 20, 30, 0)))
    assert found.mode == "RGBA" and found.getpixel((0, 0)) == (10, 20, 30, 0)
    palette = scene("P")
    assert decode(encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))).mode == "RGBA"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_rotation_is_honoured(orientation: int, kind: str) -> None:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how Pillow's Transpose undoes them
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    stored = scene() if orientation == 1 else scene().transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(fine(stored, kind, exif=exif))
    upright = stored if orientation == 1 else stored.transpose(Image.Transpose(undo[orientation]))
    assert close(found, upright) and close(found, scene())
    assert "exif" not in found.info


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind: str) -> None:
    frames = [scene(), Image.new("RGB", (40, 24), "white"), Image.new("RGB", (40, 24), "black")]
    found = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50))
    assert close(found, scene(), 10)


def test_nothing_but_pixels_goes_on() -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("workflow", "{}")
    found = decode(encoded(scene(), "PNG", pnginfo=texts, icc_profile=b"x" * 200, dpi=(300, 300)))
    found.load()
    assert found.info == {}


def bomb(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG that says it is large and is a few hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * (1 + 3 * width) * rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content",
    [
        bomb(100_000, 100_000),
        bomb(4000, 1001, rows=1001),
        bomb(2_000_000_000, 2),
        encoded(Image.new("L", (3000, 2000)), "GIF"),
        encoded(Image.new("1", (9000, 9000)), "PNG"),
    ],
)
def test_bombs_are_refused_before_they_are_unpacked(content: bytes) -> None:
    start = time.process_time()
    with pytest.raises(errors.ApiError) as refused:
        decode(content)
    assert (refused.value.status, refused.value.field) == (400, "image")
    assert time.process_time() - start < 0.5


def webp_canvas(width: int, height: int) -> bytes:
    """The head of an extended WebP, of which Pillow has the whole canvas made before it tells a size."""
    head = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + (22).to_bytes(4, "little") + b"WEBPVP8X" + (10).to_bytes(4, "little") + head


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "20000 x 20000"),
        (b"GIF89a\x10\0\x10\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x01\x44\0;", "65535 x 65535"),
        (webp_canvas(16_383, 16_000), "16383 x 16000"),
        (encoded(Image.new("RGB", (3000, 2000)), "WEBP"), "3000 x 2000"),
        (encoded(Image.new("RGB", (3000, 2000)), "WEBP", lossless=True), "3000 x 2000"),
    ],
    ids=["PNG", "GIF", "WebP", "lossy WebP", "lossless WebP"],
)
def test_a_whole_picture_of_too_many_pixels_is_called_that(content: bytes, size: str) -> None:
    """Also where Pillow would refuse it for a bound of its own, before it says how large it is."""
    with pytest.raises(errors.ApiError) as refused:
        decode(content)
    assert str(refused.value) == f"image has {size} pixels; 4 million are the most."


def test_settings_may_allow_more_than_pillow_does() -> None:
    admitted: list[int] = []

    def admit(pixels: int) -> None:
        admitted.append(pixels)
        raise decoding.Refused("is not decoded in this test.")

    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(decoding.Refused, match="in this test"):
        decoding.convert(bomb(20_000, 20_000), 500, io.BytesIO(), admit)
    assert admitted == [400_000_000] and before == Image.MAX_IMAGE_PIXELS


def test_a_text_bomb_in_a_png() -> None:
    body = b"workflow\0\0" + zlib.compress(b" " * 300_000_000, 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    content = png()
    with pytest.raises(errors.ApiError, match="has texts or a colour profile of several MB"):
        decode(content[:33] + chunk + content[33:])


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), share=st.floats(0, 0.98))
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    content = encoded(scene(width=200, height=150).effect_spread(40), kind)
    with pytest.raises(errors.ApiError, match="no whole"):
        decode(content[: int(share * len(content))])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(KINDS), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12))
def test_damaged_files_are_refused_or_decoded(kind: str, changes: list[tuple[float, int]]) -> None:
    content = bytearray(encoded(scene().effect_spread(9), kind, **({"exif": exif()} if kind in KINDS[:3] else {})))
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    try:
        found = decode(bytes(content))
    except errors.ApiError as error:
        assert (error.status, error.field) == (400, "image")
    else:
        assert found.mode in ("RGB", "RGBA") and found.width * found.height <= 4e6


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "maker"
    return tags


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=400),
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"\xff\xd8\xff"]),
)
def test_noise_is_refused(content: bytes, head: bytes) -> None:
    try:
        found = decode(head + content)
    except errors.ApiError as error:
        assert error.status == 400
    else:
        assert found.width * found.height <= 4e6


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "ICO", "PPM", "PDF", "EPS"])
def test_other_formats_are_not_even_tried(kind: str) -> None:
    with pytest.raises(errors.ApiError, match="PNG, JPEG, WebP, GIF or BMP"):
        decode(encoded(scene(), kind))


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_as_a_source(text: str) -> None:
    if text.strip().lower().startswith(("http:", "https:")):
        return
    try:
        content = asyncio.run(images.read_source(text, "image", Settings()))
    except errors.ApiError as error:
        assert (error.status, error.field) == (400, "image")
    else:
        assert isinstance(content, bytes)


def test_through_the_endpoint(api: Api) -> None:
    """What is refused above is a 400 with the field's name there; what is decoded is made into a picture."""
    refused = [bomb(100_000, 100_000), png()[:40], b"<svg/>", encoded(scene(), "TIFF"), b"\0" * 100, png(3, 9)]
    for content in refused:
        answer = api.post(V3, wave(image=base64_of(content)))
        assert answer.status == 400 and answer.json["data"]["field"] == "image"
    tags = exif()
    good: list[Any] = [encoded(scene("CMYK"), "JPEG"), encoded(scene(), "JPEG", exif=tags), encoded(scene("1"), "PNG")]
    good += [
        encoded(scene(), "GIF", save_all=True, append_images=[scene("L")]),
        png(4, 4),
        png(3000, 4),
        png(color=(1, 2, 3, 0)),
    ]
    for content in good:
        done = api.post(V3, wave(image=base64_of(content), enable_sync_mode=True)).json["data"]
        assert done["status"] == "completed", done
