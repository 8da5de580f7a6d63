"""What may be handed in as a mask of a picture: each kind is read right, or refused with one sentence.

Shapes: B pictures, Y x X pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import redux

Photo = Callable[..., Tensor]


MASKS: dict[str, Callable[[Tensor], Any]] = {
    "[1, Y, X]": lambda m: m[None],
    "[1, 1, Y, X]": lambda m: m[None, None],
    "bool": lambda m: m > 0.5,
    "uint8": lambda m: (m * 255).byte(),
    "half": lambda m: m.half(),
    "array": lambda m: m.numpy(),
    "array uint8": lambda m: (m * 255).byte().numpy(),
    "Pillow L": lambda m: Image.fromarray((m * 255).byte().numpy()),
    "Pillow 1": lambda m: Image.fromarray((m * 255).byte().numpy()).convert("1"),
    "Pillow RGB": lambda m: Image.fromarray((m * 255).byte().numpy()).convert("RGB"),
    "list": lambda m: [m],
}


@pytest.mark.parametrize("kind", MASKS)
def test_the_same_mask_in_every_form(model: redux.ReduxModel, photo: Photo, kind: str) -> None:
    mask_YX = torch.zeros(40, 52)
    mask_YX[8:30, 12:] = 1
    expected = model.encode(photo(40, 52), mask=mask_YX)
    found = model.encode(photo(40, 52), mask=MASKS[kind](mask_YX))
    assert torch.allclose(found.coverage, expected.coverage, atol=1e-6)  # type: ignore[arg-type]
    assert torch.equal(found.tokens, expected.tokens)


def test_soft_masks_keep_their_greys_in_every_dtype(model: redux.ReduxModel, photo: Photo) -> None:
    mask_YX = torch.linspace(0, 1, 52).expand(40, 52)
    expected = model.encode(photo(40, 52), mask=mask_YX).coverage
    for mask in (mask_YX.mul(255).round().byte(), mask_YX.mul(65535).round().to(torch.int32).to(torch.uint16)):
        assert torch.allclose(model.encode(photo(40, 52), mask=mask).coverage, expected, atol=5e-3)  # type: ignore


def test_masks_for_lists(model: redux.ReduxModel, photo: Photo) -> None:
    images = [photo(40, 40), photo(30, 60)]
    left, top = torch.zeros(10, 10), torch.zeros(20, 20)
    left[:, :5], top[:10] = 1, 1
    singles = [model.encode(image, mask=mask).coverage for image, mask in zip(images, (left, top), strict=True)]
    together = model.encode(images, mask=[left, top]).coverage
    assert torch.equal(together, torch.cat(singles))  # type: ignore[arg-type]
    stacked = model.encode(images, mask=torch.stack([left, top[::2, ::2]])).coverage
    assert torch.allclose(stacked, together, atol=0.3)  # type: ignore[arg-type]
    one = model.encode(images, mask=left).coverage
    assert one is not None and torch.allclose(one[0], one[1], atol=0.01)
    with pytest.raises(ValueError, match="There are 3 masks for 2 pictures"):
        model.encode(images, mask=[left, left, left])
    with pytest.raises(ValueError, match="one for each of 1 pictures"):
        model.encode(images, mask=torch.ones(3, 10, 10))


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        pytest.param(torch.zeros(1, 20, 20), ValueError, "leaves nothing of the reference.*or invert it", id="black"),
        pytest.param(torch.full((20, 20), 1e-4), ValueError, "leaves nothing", id="nearly black"),
        pytest.param(torch.ones(2, 20, 20), ValueError, "one for each of 3 pictures", id="two for three"),
        pytest.param(torch.ones(3, 0, 0), ValueError, r"mask has shape \(3, 0, 0\)", id="empty"),
        pytest.param(torch.ones(20), ValueError, r"mask has shape \(20,\)", id="a line"),
        pytest.param(torch.ones(1, 20, 20, 3), ValueError, r"mask has shape \(1, 20, 20, 3\)", id="an image"),
        pytest.param(torch.full((20, 20), torch.nan), ValueError, "400 values that are NaN", id="NaN"),
        pytest.param(torch.ones(20, 20) * 255, ValueError, "mask has values of 255 on average", id="0..255 floats"),
        pytest.param("mask.png", TypeError, "mask is a str", id="path"),
    ],
)
def test_wrong_masks(model: redux.ReduxModel, photo: Photo, mask: Any, error: type[Exception], words: str) -> None:
    for fit in redux.image.FITS:
        with pytest.raises(error, match=words):
            model.encode(photo(40, 40, batch=3), mask=mask, fit=fit)


def test_one_black_mask_in_a_batch_is_refused(model: redux.ReduxModel, photo: Photo) -> None:
    masks = torch.ones(3, 20, 20)
    masks[1] = 0
    with pytest.raises(ValueError, match="leaves nothing"):
        model.encode(photo(40, 40, batch=3), mask=masks)
