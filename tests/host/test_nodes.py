"""Encode, Pool and Mix as nodes: what a user sets is what the library gets, and nothing passed in is changed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

FITS: list[dict[str, Any]] = [
    {"fit": "stretch"},
    {"fit": "crop", "position": "left"},
    {"fit": "pad"},
    {"fit": "native"},
    {"fit": "tiles", "rows": 2, "columns": 3, "token_budget": 200},
]


@pytest.fixture(scope="module")
def model(comfy: Any, redux_nodes: Any) -> Any:
    return redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "fp32").args[0]


@pytest.fixture(scope="module")
def encode(redux_nodes: Any, model: Any) -> Any:
    """encode(image, fit, mask=None, ...) -> tokens, through the node."""

    def run(image: torch.Tensor, fit: dict[str, Any] | None = None, *args: Any, **options: Any) -> Any:
        return redux_nodes["ReduxEncode"].execute(model, image, fit or FITS[0], *args, **options).args[0]

    return run


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit["fit"])
def test_a_fit_is_that_of_the_library(model: Any, encode: Any, fit: dict[str, Any]) -> None:
    image, mask = torch.rand(2, 60, 90, 3), torch.rand(2, 30, 30)
    options = {key: value for key, value in fit.items() if key not in ("rows", "columns")}
    if fit["fit"] == "tiles":
        options["tiles"] = (fit["rows"], fit["columns"])
    found = encode(image, dict(fit), mask)
    expected = model.model.encode(image, mask=mask, **options)  # where the node has brought the weights
    assert torch.equal(found.tokens, expected.tokens.cpu()) and found.parts == expected.parts
    assert torch.equal(found.coverage, expected.coverage.cpu())
    assert found.about["fit"] == fit["fit"] and found.about["size"] == [60, 90]


def test_tiles_keep_to_their_budget(encode: Any) -> None:
    tokens = encode(torch.rand(1, 60, 90, 3), FITS[4])
    assert tokens.grids == ((5, 5),) * 7  # 7 views of at most 200 / 7 tokens


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("stretch", {"fit": "stretch"}),
        ("crop", {"fit": "crop", "position": "center"}),
        ({"fit": "crop", "position": None}, {"fit": "crop", "position": "center"}),
        ("tiles", {"fit": "tiles", "rows": 2, "columns": 2, "token_budget": 1458}),
        ({"fit": "tiles", "rows": 1}, {"fit": "tiles", "rows": 1, "columns": 2, "token_budget": 1458}),
    ],
)
def test_what_a_fit_leaves_out_has_a_default(encode: Any, redux_nodes: Any, short: Any, full: dict[str, Any]) -> None:
    image = torch.rand(1, 60, 90, 3)
    assert redux_nodes["ReduxEncode"].validate_inputs(fit=short) is True
    found, expected = encode(image, short), encode(image, full)
    assert torch.equal(found.tokens, expected.tokens) and found.about == expected.about


@pytest.mark.parametrize(("pictures", "said"), [(1, []), (4, []), (12, ["12 pictures", "768 tokens", "per image"])])
def test_many_pictures_are_said(
    encode: Any, redux_nodes: Any, monkeypatch: pytest.MonkeyPatch, pictures: int, said: list[str]
) -> None:
    notes: list[str] = []
    module = sys.modules[redux_nodes["ReduxEncode"].__module__]
    monkeypatch.setattr(module, "note_on_node", notes.append)
    encode(torch.rand(pictures, 20, 20, 3))
    assert len(notes) == bool(said) and all(part in notes[0] for part in said)


@pytest.mark.parametrize("fit", [None, {}, {"fit": None}, "squeeze", {"fit": ["stretch"]}])
def test_a_missing_fit_is_one_sentence(redux_nodes: Any, model: Any, fit: Any) -> None:
    """ComfyUI's validation lets an unknown choice of a dynamic input through as None."""
    with pytest.raises(ValueError, match="fit .* (missing|unknown); choose one of stretch, crop, pad, native, tiles"):
        redux_nodes["ReduxEncode"].execute(model, torch.rand(1, 40, 40, 3), fit)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(0, 40, 40, 3), "is an empty batch; at least one picture is needed"),
        (torch.zeros(1, 0, 0, 3), "is 0 x 0 pixels; at least 1 x 1 is needed"),
        (torch.zeros(1, 3, 40, 40), "looks like"),
        (torch.zeros(1, 40, 40, 2), "1, 3 or 4 channels is needed"),
        (torch.full((1, 40, 40, 3), torch.nan), "values that are NaN or infinite"),
        ({"samples": torch.zeros(1, 16, 8, 8)}, "is a dict; a tensor"),
    ],
    ids=["no picture", "no pixel", "channels first", "two channels", "NaN", "a latent"],
)
def test_what_is_no_picture_is_one_sentence(encode: Any, image: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        encode(image)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_each_picture_is_cropped_to_its_own_mask(encode: Any) -> None:
    """In a batch as alone; the square round the mask has a tenth of its side more on each side."""
    images, masks = torch.rand(2, 100, 100, 3), torch.zeros(2, 100, 100)
    masks[0, 10:30, 10:30] = 1
    masks[1, 40:90, 50:70] = 1
    together = encode(images, FITS[0], masks, True, 0.1)
    singles = [encode(images[i : i + 1], FITS[0], masks[i : i + 1], True, 0.1) for i in range(2)]
    assert torch.allclose(together.tokens, torch.cat([one.tokens for one in singles]), atol=1e-5)
    cut = encode(images[:1, 8:32, 8:32], FITS[0], masks[:1, 8:32, 8:32])
    assert torch.allclose(together.tokens[:1], cut.tokens, atol=1e-5)
    assert torch.allclose(together.coverage[:1], cut.coverage, atol=1e-5)


def test_alpha_can_be_cropped_to(encode: Any) -> None:
    rgba = torch.rand(1, 80, 80, 4)
    rgba[..., 3] = 0
    rgba[:, 20:60, 20:60, 3] = 1
    cropped = encode(rgba, FITS[0], None, True, 0.0)
    assert torch.allclose(cropped.tokens, encode(rgba[:, 20:60, 20:60, :3]).tokens, atol=1e-5)


def test_crop_to_mask_without_a_mask_is_one_sentence(encode: Any) -> None:
    with pytest.raises(ValueError, match="no mask and no alpha to crop to; connect a mask or switch crop_to_mask off"):
        encode(torch.rand(1, 40, 40, 3), FITS[0], None, True)


def test_the_preview_is_saved_for_every_picture(comfy: Any, redux_nodes: Any, model: Any) -> None:
    output = redux_nodes["ReduxEncode"].execute(model, torch.rand(3, 40, 60, 3), {"fit": "pad"})
    images = output.ui["images"]
    assert len(images) == 3 and {image["type"] for image in images} == {"temp"}
    for image in images:
        path = Path(comfy.folder_paths.get_temp_directory(), image["subfolder"], image["filename"])
        pixels = np.asarray(Image.open(path))
        assert pixels.shape == (112, 112, 3)
        assert pixels[0, 7].astype(int) @ [2, -1, -1] > 40, "the padding on top is red"


def test_the_preview_is_small(comfy: Any, redux_nodes: Any, model: Any) -> None:
    """Sixteen tiles of each of ten pictures: eight drawings of at most 768 pixels."""
    fit = {"fit": "tiles", "rows": 4, "columns": 4, "token_budget": 100}
    shown = redux_nodes["ReduxEncode"].execute(model, torch.rand(10, 120, 90, 3), fit)
    paths = [Path(comfy.folder_paths.get_temp_directory(), image["filename"]) for image in shown.ui["images"]]
    assert len(set(paths)) == 8 and shown.args[0].num_pictures == 10
    assert max(max(Image.open(path).size) for path in paths) <= 768
    assert sum(path.stat().st_size for path in paths) < 3_000_000


def test_pool_and_mix(redux_nodes: Any, pack: Any, encode: Any) -> None:
    first, second = (encode(torch.rand(1, 50, 50, 3)) for _ in range(2))
    pooled = redux_nodes["ReduxPool"].execute(first, 3, 4).args[0]
    assert torch.equal(pooled.tokens, first.pool((3, 4)).tokens) and pooled.about == first.about
    sockets = {"reference_0": first, "reference_2": pooled, "reference_10": second}  # a gap, and past nine
    joined = redux_nodes["ReduxMix"].execute(sockets, "join", "1, 0.5;2").args[0]
    assert joined.grids == ((8, 8), (3, 4), (8, 8)) and [part.weight for part in joined.parts] == [1, 0.5, 2]
    blend = redux_nodes["ReduxMix"].execute({"reference_0": first, "reference_1": second}, "slerp", "3 1").args[0]
    assert torch.equal(blend.tokens, pack.redux.mix([first, second], "slerp", [3, 1]).tokens)


@pytest.mark.parametrize(
    ("text", "weights"),
    [("", None), ("  ", None), ("1, 0.5", [1, 0.5]), ("1;2 3\n4", [1, 2, 3, 4]), ("-0.5,,1e-1", [-0.5, 0.1])],
)
def test_weights_as_people_write_them(redux_nodes: Any, text: str, weights: list[float] | None) -> None:
    from redux_control.nodes.mix import read_weights

    assert read_weights(text) == weights


@pytest.mark.parametrize("text", ["1, half", "0,5x", "1:2", "[1]"])
def test_weights_that_are_none(redux_nodes: Any, encode: Any, text: str) -> None:
    tokens = encode(torch.rand(1, 40, 40, 3))
    with pytest.raises(ValueError, match="cannot be read; write numbers, e.g. 1, 0.5"):
        redux_nodes["ReduxMix"].execute({"reference_0": tokens, "reference_1": tokens}, "average", text)


def test_a_joined_reference_is_sampled_as_a_chain(comfy: Any, redux_nodes: Any, encode: Any) -> None:
    """Two references joined with weights 1 and 0.5 are two Apply Redux with these strengths."""
    first, second = (encode(torch.rand(1, 50, 50, 3)) for _ in range(2))
    apply, text = redux_nodes["ReduxApply"], comfy.conditioning(seed=1)
    mixed = redux_nodes["ReduxMix"].execute({"reference_0": first, "reference_1": second}, "join", "1 0.5").args[0]
    joined = apply.execute(text, mixed, strength=0.6).args[0]
    chained = apply.execute(apply.execute(text, first, strength=0.6).args[0], second, strength=0.3).args[0]
    flux = comfy.load_flux()
    one, other = comfy.sample(flux, joined), comfy.sample(flux, chained)
    # A chain puts what was applied last first, and FLUX knows no order of its text: equal but for rounding.
    assert float((one - other).norm() / other.norm()) < 1e-5


def digest(*values: Any) -> list[str]:
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return [hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for tensor in tensors]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    batch=st.integers(1, 3),
    channels=st.sampled_from([3, 4]),
    fit=st.sampled_from(FITS),
    masks=st.sampled_from([None, "one", "each", "wrong"]),
    crop=st.booleans(),
    rows=st.integers(1, 64),
    method=st.sampled_from(["join", "average", "norm average", "slerp", "add", "subtract", "max"]),
)
def test_whatever_comes_in(
    redux_nodes: Any,
    encode: Any,
    size: Any,
    batch: int,
    channels: int,
    fit: Any,
    masks: Any,
    crop: bool,
    rows: int,
    method: str,
) -> None:
    """A reference of finite tokens goes through Pool, Mix and Apply; or one sentence says why not."""
    image = torch.rand(batch, *size, channels)
    count = {None: 0, "one": 1, "each": batch, "wrong": batch + 1}[masks]
    mask = torch.rand(count, 20, 30).round() if count else None
    before = digest(image, mask)
    try:
        tokens = encode(image, dict(fit), mask, crop)
        pooled = redux_nodes["ReduxPool"].execute(tokens, rows, 3).args[0]
        mixed = redux_nodes["ReduxMix"].execute({"a": pooled, "b": pooled}, method).args[0]
        apply = redux_nodes["ReduxApply"].execute([[torch.zeros(1, 4, mixed.width), {}]], mixed).args[0]
    except ValueError as error:
        text = str(error)
        assert "\n" not in text and text.endswith(".") and len(text) < 400
        assert min(size) < 4 or masks is not None or crop
    else:
        (placed,) = apply[0][1]["model_conds"]["redux_references"].cond.tokens
        assert tokens.num_pictures == batch and bool(torch.isfinite(placed).all())
        assert placed.shape[1] > 0
    assert digest(image, mask) == before
