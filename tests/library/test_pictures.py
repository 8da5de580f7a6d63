"""What may be handed in as a picture: each kind is read right, or refused with one sentence.

Shapes: B pictures, Y x X pixels, C channels.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import redux
from redux import pictures
from redux.pictures import as_batch, read_picture

Photo = Callable[..., Tensor]


def tokens_of(model: redux.ReduxModel, images: Any, **options: Any) -> Tensor:
    return model.encode(images, **options).tokens


@pytest.fixture(scope="module")
def picture_YXC(photo: Photo) -> np.ndarray:
    """[40, 52, 3] uint8."""
    return photo(40, 52)[0].mul(255).round().byte().numpy()


@pytest.fixture(scope="module")
def expected(model: redux.ReduxModel, picture_YXC: np.ndarray) -> Tensor:
    return tokens_of(model, torch.from_numpy(picture_YXC)[None] / 255)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() <= tolerance


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor uint8": lambda p: torch.from_numpy(p)[None],
    "tensor float64": lambda p: torch.from_numpy(p)[None].double() / 255,
    "tensor [Y, X, C]": lambda p: torch.from_numpy(p) / 255,
    "tensor not contiguous": lambda p: (torch.from_numpy(p).permute(2, 0, 1).contiguous() / 255).permute(1, 2, 0),
    "tensor with gradient": lambda p: (torch.from_numpy(p) / 255).requires_grad_(),
    "tensor uint16": lambda p: torch.from_numpy(p.astype(np.uint16) * 257),
    "array uint8": lambda p: p,
    "array float64": lambda p: p / 255,
    "array uint16": lambda p: p.astype(np.uint16) * 257,
    "array big-endian": lambda p: (p.astype(np.uint16) * 257).astype(">u2"),
    "array flipped twice": lambda p: np.ascontiguousarray(p[::-1])[::-1],
    "array read-only": lambda p: np.frombuffer(p.tobytes(), np.uint8).reshape(p.shape),
    "Pillow RGB": lambda p: Image.fromarray(p),
    "Pillow RGBA opaque": lambda p: Image.fromarray(p).convert("RGBA"),
    "list of one": lambda p: [Image.fromarray(p)],
    "tuple of one": lambda p: (p,),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_picture_in_every_form(
    model: redux.ReduxModel, picture_YXC: np.ndarray, expected: Tensor, kind: str
) -> None:
    found = model.encode(KINDS[kind](picture_YXC))
    assert found.coverage is None
    assert not found.tokens.requires_grad and not found.tokens.is_inference()
    assert_close(found.tokens, expected)


GREY: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor [B, Y, X, 1]": lambda p: torch.from_numpy(p)[None, ..., None],
    "tensor [Y, X]": lambda p: torch.from_numpy(p) / 255,
    "array [Y, X]": lambda p: p,
    "Pillow L": lambda p: Image.fromarray(p),
    "Pillow I;16": lambda p: Image.fromarray(p.astype(np.uint16) * 257),
    "Pillow I": lambda p: Image.fromarray(p.astype(np.int32) * 257),
    "Pillow F": lambda p: Image.fromarray(p.astype(np.float32) / 255),
    "Pillow LA opaque": lambda p: Image.fromarray(p).convert("LA"),
    "Pillow P of greys": lambda p: Image.fromarray(p).convert("P"),
}


@pytest.mark.parametrize("kind", GREY)
def test_grey_is_three_equal_channels(model: redux.ReduxModel, picture_YXC: np.ndarray, kind: str) -> None:
    grey_YX = picture_YXC[..., 0]
    expected = tokens_of(model, np.repeat(grey_YX[..., None], 3, axis=-1))
    assert_close(tokens_of(model, GREY[kind](grey_YX)), expected)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "HSV"])
def test_other_pillow_modes_are_converted(model: redux.ReduxModel, picture_YXC: np.ndarray, mode: str) -> None:
    image = Image.fromarray(picture_YXC).convert(mode)
    assert_close(tokens_of(model, image), tokens_of(model, np.asarray(image.convert("RGB"))))


def test_sixteen_bits_are_not_cut_to_eight(picture_YXC: np.ndarray) -> None:
    deep = picture_YXC.astype(np.uint16) * 257 - picture_YXC.astype(np.uint16)  # between the 8-bit levels
    found = read_picture(as_batch(deep)).rgb_BCYX[0].movedim(0, -1)
    assert torch.allclose(found, torch.from_numpy(deep.astype(np.float32) / 65535), atol=1e-6)
    png = io.BytesIO()
    Image.fromarray(deep[..., 0]).save(png, "PNG")
    reopened = read_picture(as_batch(Image.open(png))).rgb_BCYX[0, 0]
    assert torch.allclose(reopened, found[..., 0], atol=1e-6)


def test_exif_turns_the_picture_upright(model: redux.ReduxModel, picture_YXC: np.ndarray) -> None:
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(picture_YXC)))  # a camera held on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif)
    assert_close(tokens_of(model, Image.open(file)), tokens_of(model, picture_YXC))


def transparent(picture_YXC: np.ndarray) -> np.ndarray:
    """The right half is transparent, and its hidden colours are red."""
    rgba = np.dstack([picture_YXC, np.full(picture_YXC.shape[:2], 255, np.uint8)])
    rgba[:, rgba.shape[1] // 2 :] = (255, 0, 0, 0)
    return rgba


def test_alpha_is_a_mask_and_hides_its_colours(model: redux.ReduxModel, picture_YXC: np.ndarray) -> None:
    rgba = transparent(picture_YXC)
    found = model.encode(rgba)
    assert found.coverage is not None
    cover_yx = found.coverage[0].reshape(8, 8)
    assert bool((cover_yx[:, :4] > 0.9).all()) and bool((cover_yx[:, 4:] < 0.1).all())
    other = rgba.copy()
    other[rgba[..., 3] == 0, :3] = (0, 255, 0)
    assert torch.equal(model.encode(other).tokens, found.tokens)
    assert torch.equal(model.encode(Image.fromarray(rgba)).tokens, found.tokens)
    assert torch.equal(model.encode(torch.from_numpy(rgba)[None] / 255).tokens, found.tokens)


def test_palette_with_transparency(model: redux.ReduxModel) -> None:
    image = Image.new("P", (40, 30))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (20, 0, 40, 30))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=1)
    found = model.encode(Image.open(file))
    assert found.coverage is not None
    assert bool((found.coverage[0].reshape(8, 8)[:, 5:] == 0).all())


def test_lists_may_differ_in_size_and_kind(model: redux.ReduxModel, photo: Photo, picture_YXC: np.ndarray) -> None:
    rgba = transparent(picture_YXC)
    items = [Image.fromarray(picture_YXC), photo(70, 30, batch=2), rgba, picture_YXC[..., 0]]
    for fit in ("stretch", "crop", "pad", "tiles"):
        found = model.encode(items, fit=fit)
        singles = [model.encode(item, fit=fit) for item in items]
        assert_close(found.tokens, torch.cat([single.tokens for single in singles]))
        covers = [
            torch.ones(single.tokens.shape[:2]) if single.coverage is None else single.coverage for single in singles
        ]
        assert found.coverage is not None and torch.equal(found.coverage, torch.cat(covers))
    with pytest.raises(ValueError, match="give grids of .* and .* tokens; pictures of one shape are needed"):
        model.encode(items, fit="native")
    assert model.encode([photo(30, 60), photo(60, 120)], fit="native").num_pictures == 2


def test_a_batch_is_its_pictures(model: redux.ReduxModel, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of the tower and pieces of the preprocessing are not visible, with one mask or with one for each."""
    images = photo(40, 40, batch=19)
    masks = torch.rand(19, 20, 20, generator=torch.Generator().manual_seed(0)).round()
    steps: list[tuple[int, int]] = []
    singles = torch.cat([tokens_of(model, image) for image in images])
    covers = torch.cat([model.encode(image, mask=mask).coverage for image, mask in zip(images, masks, strict=True)])
    for piece in (pictures.PIECE, 40 * 40 * 4):
        monkeypatch.setattr(pictures, "PIECE", piece)
        views = model.views(images, mask=masks)
        found = model.encode_views(views, progress=lambda done, total: steps.append((done, total)))
        assert steps[-2:] == [(1, 2), (2, 2)]
        assert_close(found.tokens, singles)
        assert torch.equal(found.coverage, covers)  # type: ignore[arg-type]
        shared = model.encode(images, mask=masks[:1]).coverage
        assert shared is not None and torch.equal(shared, covers[:1].expand(19, -1))
        with pytest.raises(ValueError, match=r"mask has shape \(4, 20, 20\).*each of 19 pictures"):
            model.encode(images, mask=masks[:4])


@pytest.mark.parametrize("height", [4, 5, 13, 111, 113, 1999])
@pytest.mark.parametrize("width", [4, 7, 112, 640])
def test_odd_sizes(model: redux.ReduxModel, photo: Photo, height: int, width: int) -> None:
    for fit in redux.image.FITS:
        found = tokens_of(model, photo(height, width), fit=fit)
        assert bool(torch.isfinite(found).all())


WRONG: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("channels first", lambda: torch.rand(2, 3, 40, 50), ValueError, r"\(2, 3, 40, 50\); it looks like \[B, C, H, W\]"),
    ("channels first, one", lambda: torch.rand(3, 40, 50), ValueError, r"it looks like \[B, C, H, W\]"),
    ("two channels", lambda: torch.rand(1, 40, 50, 2), ValueError, "1, 3 or 4 channels"),
    ("five dimensions", lambda: torch.rand(1, 1, 40, 50, 3), ValueError, r"\(1, 1, 40, 50, 3\)"),
    ("a number", lambda: torch.tensor(1.0), ValueError, r"has shape \(\)"),
    ("latent", lambda: {"samples": torch.rand(1, 16, 8, 8)}, TypeError, "is a dict; a tensor, a numpy array or"),
    ("path", lambda: "cat.png", TypeError, "is a str; a tensor"),
    ("nothing", lambda: None, TypeError, "is a NoneType; a tensor"),
    ("list of paths", lambda: ["cat.png"], TypeError, "is a str; a tensor"),
    ("empty batch", lambda: torch.rand(0, 40, 50, 3), ValueError, "empty batch; at least one picture"),
    ("empty list", list, ValueError, "empty list; at least one picture"),
    ("no pixels", lambda: torch.rand(1, 0, 0, 3), ValueError, "0 x 0 pixels; at least 1 x 1"),
    ("no rows", lambda: torch.rand(1, 0, 300, 3), ValueError, "300 x 0 pixels; at least 1 x 1"),
    ("NaN", lambda: torch.rand(1, 40, 50, 3) * torch.nan, ValueError, "6000 values that are NaN or infinite"),
    ("one inf", lambda: torch.rand(1, 40, 50, 3).index_fill(1, torch.tensor(3), torch.inf), ValueError, "150 values"),
    ("0..255 floats", lambda: torch.rand(1, 40, 50, 3) * 255, ValueError, "on average; floats in 0..1, or uint8"),
    ("int64", lambda: torch.ones(1, 40, 50, 3, dtype=torch.int64), ValueError, "dtype torch.int64; floats in 0..1"),
    ("complex", lambda: torch.ones(1, 40, 50, 3, dtype=torch.complex64), ValueError, "dtype torch.complex64"),
    ("meta", lambda: torch.rand(1, 40, 50, 3, device="meta"), ValueError, "is a meta tensor; a dense one with values"),
    ("sparse", lambda: torch.rand(1, 40, 50, 3).to_sparse(), ValueError, "layout torch.sparse_coo; a dense one"),
    ("huge", lambda: torch.full((1, 40, 50, 3), 3e38), ValueError, "on average; floats in 0..1"),
]


@pytest.mark.parametrize(("make", "error", "words"), [pytest.param(*row[1:], id=row[0]) for row in WRONG])
def test_what_is_no_picture(
    model: redux.ReduxModel, make: Callable[[], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        model.encode(make())
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 300


def test_values_out_of_range_are_clamped(model: redux.ReduxModel, photo: Photo) -> None:
    image = photo(40, 40) * 1.6 - 0.3
    assert torch.equal(tokens_of(model, image), tokens_of(model, image.clamp(0, 1)))


def digest(values: Any) -> str:
    if isinstance(values, Tensor):
        values = values.numpy()
    return hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize("fit", redux.image.FITS)
def test_nothing_passed_in_is_changed(model: redux.ReduxModel, photo: Photo, fit: str) -> None:
    rgba = photo(112, 112, batch=2, channels=4)  # of the tower's own size: nothing needs to be resized
    mask = torch.rand(2, 112, 112)
    images = [rgba, rgba[..., :3].contiguous(), rgba.numpy(), Image.fromarray(rgba[0].mul(255).byte().numpy())]
    for image in images:
        before = digest(image), digest(mask)
        model.encode(image, mask=mask if not isinstance(image, Image.Image) else mask[:1], fit=fit)
        assert (digest(image), digest(mask)) == before
