"""How a picture meets the tower's square: which part is seen, at which shape, and what is left out.

Shapes: B pictures, Y x X pixels, N tokens, r x c grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import redux
from redux.image import FITS, POSITIONS, View, native_grid
from redux.pictures import read_picture

Photo = Callable[..., Tensor]

CONFIG = redux.SiglipConfig(image_size=112, patch_size=14, hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
SO400M = redux.SiglipConfig()


@pytest.fixture(scope="module")
def gradient_BYXC() -> Tensor:
    """[1, 60, 240, 3]: red runs across and green down, so that a pixel says where it came from."""
    across = torch.linspace(0, 1, 240).expand(60, 240)
    down = torch.linspace(0, 1, 60)[:, None].expand(60, 240)
    return torch.stack([across, down, torch.zeros(60, 240)], dim=-1)[None]


def one_view(fit: str, images: Tensor, mask: Tensor | None = None, config: redux.SiglipConfig = CONFIG) -> View:
    (view,) = FITS[fit](read_picture(images, mask), config)
    return view


@pytest.mark.parametrize("config", [CONFIG, SO400M], ids=["no spare pixels", "so400m"])
@pytest.mark.parametrize("side", [50, 112, 384, 700])
def test_all_fits_agree_on_a_square(photo: Photo, config: redux.SiglipConfig, side: int) -> None:
    images = photo(side, side)
    stretch = one_view("stretch", images, config=config)
    for fit in ("crop", "native", "pad"):
        view = one_view(fit, images, config=config)
        assert torch.equal(view.pixels_BCST, stretch.pixels_BCST)
        assert view.grid == stretch.grid == config.grid
        assert view.coverage_BN is None or torch.allclose(view.coverage_BN, torch.ones(()))
    assert torch.equal(FITS["tiles"](read_picture(images), config)[0].pixels_BCST, stretch.pixels_BCST)


def test_native_equals_stretch_to_the_last_token(model: redux.ReduxModel, photo: Photo) -> None:
    images = photo(300, 300, batch=2)
    assert torch.equal(model.encode(images, fit="native").tokens, model.encode(images).tokens)


@pytest.mark.parametrize(
    ("position", "red", "green"),
    [("center", 0.5, 0.5), ("left", 0.125, 0.5), ("right", 0.875, 0.5), ("top", 0.5, 0.5), ("bottom", 0.5, 0.5)],
)
def test_crop_positions(gradient_BYXC: Tensor, position: str, red: float, green: float) -> None:
    """A square of a quarter of the width; for a tall picture the same, turned."""
    wide, tall = gradient_BYXC, gradient_BYXC.transpose(1, 2)[..., [1, 0, 2]]
    (view,) = FITS["crop"](read_picture(wide), CONFIG, position=position)
    assert view.pixels_BCST.mean((2, 3))[0, :2].tolist() == pytest.approx([red * 2 - 1, green * 2 - 1], abs=0.02)
    (same,) = FITS["crop"](read_picture(wide), CONFIG, position=POSITIONS[position])
    assert torch.equal(same.pixels_BCST, view.pixels_BCST)
    turned = {"left": "top", "right": "bottom", "top": "left", "bottom": "right"}.get(position, position)
    (view,) = FITS["crop"](read_picture(tall), CONFIG, position=turned)
    assert view.pixels_BCST.mean((2, 3))[0, :2].tolist() == pytest.approx([green * 2 - 1, red * 2 - 1], abs=0.02)


@pytest.mark.parametrize("position", ["middle", (0.5,), (0.5, 1.5), (-0.1, 0), (math.nan, 0), 0.5])
def test_wrong_positions(model: redux.ReduxModel, photo: Photo, position: object) -> None:
    with pytest.raises(ValueError, match="There is no position .*0..1.*center, top"):
        model.encode(photo(40, 60), fit="crop", position=position)


@pytest.mark.parametrize("tiles", [(0, 2), (2,), (2, -1), (1.5, 2), 2])
def test_wrong_tiles(model: redux.ReduxModel, photo: Photo, tiles: object) -> None:
    with pytest.raises(ValueError, match="two whole numbers from 1 up"):
        model.encode(photo(40, 60), fit="tiles", tiles=tiles)


@pytest.mark.parametrize("margin", [math.nan, math.inf, -0.6])
def test_wrong_margins(model: redux.ReduxModel, photo: Photo, margin: float) -> None:
    with pytest.raises(ValueError, match="The margin is .*from 0 up, is needed"):
        model.encode(photo(40, 60), mask=torch.ones(40, 60), margin=margin)


def test_an_unknown_fit(model: redux.ReduxModel, photo: Photo) -> None:
    with pytest.raises(ValueError, match="There is no fit 'squash'; choose one of stretch, crop, pad, native, tiles"):
        model.encode(photo(40, 60), fit="squash")


def test_pad_keeps_the_aspect_and_drops_the_padding(gradient_BYXC: Tensor) -> None:
    """60 x 240 in a square of 8 x 8 patches: two rows of pictures' height, in the middle."""
    view = one_view("pad", gradient_BYXC)
    assert view.coverage_BN is not None
    covered_rc = view.coverage_BN[0].reshape(8, 8)
    assert torch.equal(covered_rc > 0, torch.tensor([False] * 3 + [True] * 2 + [False] * 3)[:, None].expand(8, 8))
    assert torch.allclose(covered_rc[3:5], torch.ones(()))
    assert bool((view.pixels_BCST[..., :42, :] == 0).all()) and bool((view.pixels_BCST[..., 70:, :] == 0).all())
    inside = view.pixels_BCST[0, 0, 42:70]
    assert inside[:, :10].mean() < -0.9 and inside[:, -10:].mean() > 0.9


def test_padding_tokens_are_dropped(model: redux.ReduxModel, gradient_BYXC: Tensor) -> None:
    tokens = model.encode(gradient_BYXC, fit="pad")
    assert [len(kept) for kept in tokens.kept()] == [16]
    assert tokens.full_count == 64


def test_tiles_are_the_whole_and_its_parts_in_reading_order(gradient_BYXC: Tensor, model: redux.ReduxModel) -> None:
    whole, *parts = FITS["tiles"](read_picture(gradient_BYXC), CONFIG, tiles=(2, 3))
    assert torch.equal(whole.pixels_BCST, one_view("stretch", gradient_BYXC).pixels_BCST)
    means = [((part.pixels_BCST.mean((2, 3))[0, :2] + 1) / 2).tolist() for part in parts]
    expected = [(x, y) for y in (1 / 4, 3 / 4) for x in (1 / 6, 3 / 6, 5 / 6)]
    assert all(found == pytest.approx(place, abs=0.02) for found, place in zip(means, expected, strict=True))
    tokens = model.encode(gradient_BYXC, fit="tiles", tiles=(2, 3))
    assert tokens.grids == ((8, 8),) * 7 and tokens.full_count == 64


def test_tiles_of_which_some_are_masked_out(model: redux.ReduxModel, photo: Photo) -> None:
    """Only a mask that leaves nothing at all is refused."""
    mask = torch.zeros(1, 112, 112)
    mask[:, :56, :56] = 1
    tokens = model.encode(photo(112, 112), fit="tiles", mask=mask)
    counts = [len(part[0]) for part in tokens.pool((1, 1)).kept_parts()]
    assert counts == [2]  # the whole picture and its first tile
    assert [len(kept) for kept in tokens.kept()] == [16 + 64]


def test_a_mask_covers_its_share(photo: Photo) -> None:
    """Coverage of a patch is the covered share of its area, whatever the mask's size; its mean is the mask's mean."""
    mask = torch.zeros(1, 8, 8)
    mask[0, :4] = 1
    mask[0, 4, :] = 0.5
    small = one_view("stretch", photo(112, 112), mask.repeat_interleave(14, 1).repeat_interleave(14, 2))
    assert small.coverage_BN is not None
    assert torch.allclose(small.coverage_BN[0].reshape(8, 8), mask[0], atol=1e-6)
    soft = torch.rand(1, 448, 336, generator=torch.Generator().manual_seed(0))
    cover = one_view("stretch", photo(224, 168), soft).coverage_BN
    assert cover is not None and float(cover.mean()) == pytest.approx(float(soft.mean()), abs=5e-3)


def test_an_inverted_mask_reads_the_rest(model: redux.ReduxModel, photo: Photo) -> None:
    mask = torch.zeros(1, 56, 56)
    mask[:, :, :28] = 1
    kept, rest = (model.encode(photo(56, 56), mask=m) for m in (mask, 1 - mask))
    assert torch.allclose(kept.coverage + rest.coverage, torch.ones(()), atol=1e-5)  # type: ignore[operator]


def test_specks_below_a_third_of_a_pixel_are_dropped(photo: Photo) -> None:
    mask = torch.zeros(1, 1120, 1120)
    mask[0, 0, 0] = 1  # 1 / 19600 of the first patch
    mask[0, 600:700] = 1
    cover = one_view("stretch", photo(1120, 1120), mask).coverage_BN
    assert cover is not None and cover[0, 0] == 0


@pytest.mark.parametrize("fit", sorted(FITS))
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 512), (512, 3)], ids=str)
def test_tiny_pictures_are_enlarged_like_any_other(
    model: redux.ReduxModel, photo: Photo, size: tuple[int, int], fit: str
) -> None:
    """One pixel is that colour everywhere; a picture two pixels wide is what the fit makes of it enlarged."""
    picture_1YXC = photo(*size)
    (found, *_) = model.views(picture_1YXC, fit=fit)
    assert bool(found.pixels_BCST.isfinite().all()) and model.encode(picture_1YXC, fit=fit).num_pictures == 1
    if fit == "stretch":
        side = model.config.image_size
        means = torch.nn.functional.interpolate(found.pixels_BCST, size, mode="area").movedim(1, -1) / 2 + 0.5
        assert found.pixels_BCST.shape[-2:] == (side, side)
        assert size != (1, 1) or torch.allclose(means, picture_1YXC, atol=1 / 255)
        assert (means - picture_1YXC).abs().mean() < 0.1


def test_more_tiles_than_pixels(model: redux.ReduxModel, photo: Photo) -> None:
    """Two pixels in 3 x 2 tiles: as many views as were asked for, each of one colour."""
    views = model.views(photo(1, 2), fit="tiles", tiles=(3, 2))
    assert len(views) == 7
    tiles = torch.stack([view.pixels_BCST[0] for view in views[1:]])
    assert torch.equal(tiles[0::2], tiles[:1].expand(3, -1, -1, -1)) and not torch.equal(tiles[0], tiles[1])


@pytest.mark.parametrize("size", [(384, 384), (512, 768), (768, 512), (1080, 1920), (4, 2000), (2000, 4)], ids=str)
def test_native_grid_keeps_aspect_and_budget(size: tuple[int, int]) -> None:
    rows, columns = native_grid(*size, 729)
    assert rows * columns <= 729
    assert rows * columns > 0.9 * 729 or min(rows, columns) == 1
    if min(rows, columns) > 1:
        assert rows / columns == pytest.approx(size[0] / size[1], rel=0.06)


@pytest.fixture(scope="module")
def tiny() -> redux.ReduxModel:
    model = redux.ReduxModel(CONFIG, redux.ReduxConfig(in_features=32, hidden_features=48, out_features=24))
    return model.eval()


sides = st.one_of(st.integers(1, 24), st.sampled_from([112, 113, 500, 1999, 2000]), st.integers(1, 2000))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """1 to 2000 pixels a side; of two long sides one is cut, so that an example takes milliseconds."""
    height, width = draw(sides), draw(sides)
    return (height, width) if height * width < 200_000 else (height, max(1, 200_000 // height))


@settings(max_examples=150, deadline=None)
@given(
    size=sizes(),
    batch=st.integers(1, 4),
    channels=st.sampled_from([1, 3, 4]),
    fit=st.sampled_from(sorted(FITS)),
    mask_size=st.none() | st.tuples(st.integers(1, 64), st.integers(1, 64)),
    mask_kind=st.sampled_from(["soft", "hard", "white", "one for all"]),
    seed=st.integers(0, 5),
)
def test_properties(
    tiny: redux.ReduxModel,
    size: tuple[int, int],
    batch: int,
    channels: int,
    fit: str,
    mask_size: tuple[int, int] | None,
    mask_kind: str,
    seed: int,
) -> None:
    """Whatever comes in: shapes, token counts, coverage in 0..1 and finiteness hold, or one sentence says why not."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, *size, channels, generator=generator)
    mask = None
    if mask_size is not None:
        mask = torch.rand(1 if mask_kind == "one for all" else batch, *mask_size, generator=generator)
        mask = mask.round() if mask_kind == "hard" else torch.ones_like(mask) if mask_kind == "white" else mask
    copies = images.clone(), None if mask is None else mask.clone()
    try:
        tokens = tiny.encode(images, fit=fit, mask=mask)
    except ValueError as error:
        assert mask is not None and "leaves nothing" in str(error)
        return
    assert tokens.tokens.shape == (batch, sum(rows * columns for rows, columns in tokens.grids), 24)
    assert tokens.full_count == 64
    assert len(tokens.grids) == (5 if fit == "tiles" else 1)
    assert all(rows * columns <= 64 and (fit == "native" or rows == columns == 8) for rows, columns in tokens.grids)
    assert bool(torch.isfinite(tokens.tokens).all())
    if tokens.coverage is None:
        assert fit != "pad" and mask is None and channels != 4
    else:
        assert tokens.coverage.shape == tokens.tokens.shape[:2]
        assert bool(((tokens.coverage >= 0) & (tokens.coverage <= 1)).all())
        assert all(len(kept) > 0 for kept in tokens.kept())
    assert torch.equal(images, copies[0])
    assert mask is None or torch.equal(mask, copies[1])  # type: ignore[arg-type]
