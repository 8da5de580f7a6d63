"""A call that sees a part of the picture has the region of that part: tiles of other packs, windows, areas.

Each neighbour here is a stand-in for a kind: what is its own is only how it cuts. The truth is a sampling of each part
alone, of the same noise, with a dense bias made from the part of the region that was cut by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.controlnet
import comfy.sample
import comfy.utils
import pytest
import torch
from redux_scene import count_calls, make_bias, region_weights, relative

TEXT, COUNT, STRENGTH = 8, 16, 0.7
NOISE = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(11))
HALVES = (slice(0, 8), slice(8, 16))  # columns of the latent


def region(pixels: int = 128) -> torch.Tensor:
    """Grey, and other in each half."""
    coarse = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    coarse[..., :8] *= 0.2
    return comfy.utils.common_upscale(coarse, pixels, pixels, "nearest-exact", "disabled")[0]


def sample(scene: Any, model: Any, noise: torch.Tensor, positive: list, steps: int = 2, **options: Any) -> torch.Tensor:
    options = {"negative": scene.comfy.conditioning(seed=99), "cfg": 1.0, **options}
    negative, cfg = options.pop("negative"), options.pop("cfg")
    latent = torch.zeros_like(noise)
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", positive, negative, latent, seed=0)


def dense_halves(scene: Any, plain: Callable[[int], list] | None = None, **options: Any) -> torch.Tensor:
    """Both halves alone, with the dense bias of the region's half."""
    parts = []
    for index, columns in enumerate(HALVES):
        weights = STRENGTH * region_weights(region(16)[0, :, columns], TEXT, (16, 8))
        model = scene.dense_model(make_bias(COUNT + TEXT + 32, [(0, COUNT, weights)], COUNT))
        conditioning = plain(index) if plain else scene.plain(scene.tokens())
        parts.append(sample(scene, model, NOISE[..., columns], conditioning, **options))
    return torch.cat(parts, dim=-1)


def weighted(scene: Any, text: list | None = None, pixels: int = 128) -> list:
    return scene.apply(text or scene.text, scene.tokens(), region=region(pixels), strength=STRENGTH)


def chain(control: Any) -> list[Any]:
    controls = []
    while control is not None:
        controls.append(control)
        control = control.previous_controlnet
    return controls


def with_cut_pictures(conditioning: list, columns: slice) -> list:
    """Copies of the entries whose controls, all of them, have this part of their pictures, of another size."""
    cut = []
    for text, options in conditioning:
        copies = [control.copy() for control in chain(options["control"])]
        for copied, after in zip(copies, [*copies[1:], None], strict=True):
            picture = copied.cond_hint_original
            share = picture.shape[-1] / 16
            part = picture[..., round(columns.start * share) : round(columns.stop * share)]
            copied.cond_hint_original = torch.nn.functional.interpolate(part, (128, 64))
            copied.set_previous_controlnet(after)
        cut.append([text, {**options, "control": copies[0]}])
    return cut


def hint(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(seed))


def controlled(scene: Any, controlnet: Any, conditioning: list) -> list:
    node = scene.comfy.nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(conditioning, scene.text, controlnet, hint(), 0.8, 0.0, 1.0)[0]


@pytest.mark.parametrize("pixels", [128, 16, 1024])
def test_a_pack_that_cuts_the_pictures_of_all_controls(scene: Any, pixels: int) -> None:
    """Upscalers that sample tile by tile with copies of the conditioning."""
    conditioning = weighted(scene, pixels=pixels)
    parts = [
        sample(scene, scene.flux, NOISE[..., columns], with_cut_pictures(conditioning, columns)) for columns in HALVES
    ]
    assert relative(torch.cat(parts, dim=-1), dense_halves(scene)) < 1e-5
    assert relative(sample(scene, scene.flux, NOISE[..., :8], conditioning), parts[0]) > 1e-3, "and it matters"


@pytest.mark.parametrize("options", [{"strength": 0.4}, {}, {"strength": 0.4, "end_percent": 0.5}])
def test_a_reference_without_a_region_can_be_cut(scene: Any, options: dict[str, Any]) -> None:
    conditioning = scene.apply(scene.text, scene.tokens(), **options)
    for columns in HALVES:
        mine = sample(scene, scene.flux, NOISE[..., columns], with_cut_pictures(conditioning, columns), steps=4)
        assert torch.equal(mine, sample(scene, scene.flux, NOISE[..., columns], conditioning, steps=4))


@pytest.mark.parametrize("shape", [(1, 1, 4000), (1, 4000, 1), (1, 3, 2000), (1, 1, 1)])
def test_a_thin_region_is_not_made_large(scene: Any, shape: tuple[int, ...]) -> None:
    """A mask of 1 x 4000 pixels once became a picture of a thousand million, and took all memory."""
    region = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    conditioning = scene.apply(scene.text, scene.tokens(), region=region, strength=0.4)
    hint = conditioning[0][1]["control"].cond_hint_original
    assert max(hint.shape[2:]) <= 4096 and hint.shape[3] * shape[1] == hint.shape[2] * shape[2]
    assert bool(torch.isfinite(sample(scene, scene.flux, NOISE, conditioning)).all())


def tiled(scene: Any, model: Any) -> Any:
    """A model that is called for both halves in one batch, with controls that are asked for them."""
    model = model.clone()

    def halves(apply_model: Any, call: dict[str, Any]) -> torch.Tensor:
        x, conditions = call["input"], dict(call["c"])
        tile = torch.cat([x[..., columns] for columns in HALVES])
        rows = {
            key: comfy.utils.repeat_to_batch_size(value, len(tile)) if isinstance(value, torch.Tensor) else value
            for key, value in conditions.items()
        }
        control = conditions.get("control")
        for each in chain(control):
            size = (x.shape[2] * each.compression_ratio, x.shape[3] * each.compression_ratio)
            picture = comfy.utils.common_upscale(
                each.cond_hint_original, size[1], size[0], each.upscale_algorithm, "center"
            )
            picture = comfy.utils.repeat_to_batch_size(picture, len(x)).to(x)
            share = each.compression_ratio
            each.cond_hint = torch.cat([picture[..., part.start * share : part.stop * share] for part in HALVES])
        t = comfy.utils.repeat_to_batch_size(call["timestep"], len(tile))
        if control is not None:
            original = type(control).get_control
            chunks = len(call["cond_or_uncond"])
            rows["control"] = original(control, tile, t, rows, chunks, conditions["transformer_options"])
        return torch.cat(apply_model(tile, t, **rows).chunk(2), dim=-1)

    model.set_model_unet_function_wrapper(halves)
    return model


@pytest.fixture
def asked_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[list], list]:
    """Controls that answer with themselves, so that the wrapper can ask them for each tile."""

    def defer(conditioning: list) -> list:
        for _, options in conditioning:
            control = options["control"]
            monkeypatch.setattr(control, "get_control", lambda *_, control=control: control, raising=False)
        return conditioning

    return defer


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_pack_that_tiles_inside_the_model_call(scene: Any, asked_later: Any, cfg: float) -> None:
    """Both halves of both sides are rows of one call; so they are for a picture of its own for each image."""
    positive = asked_later(weighted(scene))
    other = scene.comfy.conditioning(seed=5)
    negative = weighted(scene, other) if cfg > 1 else other
    model, calls = count_calls(scene.flux)
    mine = sample(scene, tiled(scene, model), NOISE, positive, negative=negative, cfg=cfg)
    assert {call["batch"] for call in calls} == {4 if cfg > 1 else 2}
    against = {"negative": scene.plain(scene.tokens(), text=other), "cfg": cfg} if cfg > 1 else {}
    assert relative(mine, dense_halves(scene, **against)) < 1e-5


def test_a_pack_that_cuts_the_pictures_of_controlnets(scene: Any) -> None:
    """Samplers that set the picture of one and the same control anew for each tile that they sample."""
    conditioning, parts = weighted(scene), []
    for columns in HALVES:
        for control in chain(conditioning[0][1]["control"]):
            assert isinstance(control, comfy.controlnet.ControlNet)
            picture = torch.nn.functional.interpolate(control.cond_hint_original, (128, 128), mode="nearest-exact")
            part = picture[..., 8 * columns.start : 8 * columns.stop]
            control.cond_hint = part.to(control.control_model.dtype).to(control.device)
        parts.append(sample(scene, scene.flux, NOISE[..., columns], conditioning))
    assert relative(torch.cat(parts, dim=-1), dense_halves(scene)) < 1e-5
    whole = sample(scene, scene.flux, NOISE, conditioning)
    assert torch.equal(whole, sample(scene, scene.flux, NOISE, weighted(scene))), "nothing of it stays"


def test_a_tile_that_an_interrupt_left_is_forgotten(scene: Any) -> None:
    conditioning = weighted(scene)
    expected = sample(scene, scene.flux, NOISE, conditioning)
    control = conditioning[0][1]["control"]
    control.cond_hint = control.cond_hint_original[..., :64].clone()
    control.cleanup, kept = (lambda: None), control.cleanup
    sample(scene, scene.flux, NOISE[..., :8], conditioning)
    control.cleanup = kept
    assert control.cond_hint is not None
    assert torch.equal(sample(scene, scene.flux, NOISE, conditioning), expected)


@pytest.mark.parametrize("after", [True, False])
def test_tiles_with_a_controlnet_in_the_chain(scene: Any, controlnet: Any, after: bool) -> None:
    """Of the kind that cuts copies; the ControlNet's own part of its picture is cut by the same pack."""
    if after:
        conditioning = controlled(scene, controlnet, weighted(scene))
    else:
        conditioning = weighted(scene, controlled(scene, controlnet, scene.text))
    parts = [
        sample(scene, scene.flux, NOISE[..., columns], with_cut_pictures(conditioning, columns)) for columns in HALVES
    ]

    def plain(index: int) -> list:
        return with_cut_pictures(controlled(scene, controlnet, scene.plain(scene.tokens())), HALVES[index])

    assert relative(torch.cat(parts, dim=-1), dense_halves(scene, plain)) < 1e-5


def windows(scene: Any, model: Any, dim: int, length: int = 8, fix: bool = False) -> Any:
    """Core's ContextWindowsManual without overlap."""
    nodes = pytest.importorskip("comfy_extras.nodes_context_windows")
    options = {"freenoise": False} | ({"causal_window_fix": fix} if _takes(nodes, "causal_window_fix") else {})
    schedule = "standard_static"
    return nodes.ContextWindowsManualNode.execute(model, length, 0, schedule, 1, False, "flat", dim, **options).args[0]


def _takes(nodes: Any, name: str) -> bool:
    import inspect

    return name in inspect.signature(nodes.ContextWindowsManualNode.execute).parameters


@pytest.mark.parametrize("dim", [2, 3])
def test_context_windows_over_the_picture(scene: Any, dim: int) -> None:
    model = windows(scene, scene.flux, dim)
    mine, transposed = sample(scene, model, NOISE, weighted(scene)), []
    if dim == 3:
        assert relative(mine, dense_halves(scene)) < 1e-5
        return
    for rows in HALVES:
        weights = STRENGTH * region_weights(region(16)[0, rows], TEXT, (8, 16))
        dense = scene.dense_model(make_bias(COUNT + TEXT + 32, [(0, COUNT, weights)], COUNT))
        transposed.append(sample(scene, dense, NOISE[:, :, rows], scene.plain(scene.tokens())))
    assert relative(mine, torch.cat(transposed, dim=2)) < 1e-5


def test_context_windows_over_a_batch(scene: Any) -> None:
    """Each image keeps its picture and its mask."""
    options = {"batch": "per image", "region": torch.rand(4, 8, 8), "strength": 0.5}
    conditioning = scene.apply(scene.text, scene.tokens(pictures=4), **options)
    noise = NOISE.expand(4, -1, -1, -1).contiguous()
    mine = sample(scene, windows(scene, scene.flux, 0, 2), noise, conditioning)
    assert relative(mine, sample(scene, scene.flux, noise, conditioning)) < 1e-5


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_region_is_cut_like_an_area(scene: Any, cfg: float) -> None:
    """The left half alone, in ComfyUI's area; the other half has a text."""
    area = scene.comfy.nodes.ConditioningSetArea().append
    other = scene.comfy.conditioning(seed=5)
    weights = STRENGTH * region_weights(region(16)[0, :, :8], TEXT, (16, 8))
    bias = make_bias(COUNT + TEXT + 32, [(0, COUNT, weights)], COUNT)
    dense = scene.dense_model(lambda _, keys: bias if keys == len(bias[0, 0]) else torch.zeros(1, 1, keys, keys))
    mine = area(weighted(scene), 64, 128, 0, 0, 1.0)[0] + other
    plain = area(scene.plain(scene.tokens()), 64, 128, 0, 0, 1.0)[0] + other
    results = [sample(scene, model, NOISE, each, cfg=cfg) for model, each in ((scene.flux, mine), (dense, plain))]
    assert relative(*results) < 1e-5


def test_two_areas_in_one_call_have_regions_of_their_own(scene: Any) -> None:
    area = scene.comfy.nodes.ConditioningSetArea().append
    model, calls = count_calls(scene.flux)
    mine = sum((area(weighted(scene), 64, 128, x, 0, 1.0)[0] for x in (0, 64)), [])
    joined = sample(scene, model, NOISE, mine)
    assert [call["batch"] for call in calls] == [2, 2]
    plain = sum((area(scene.plain(scene.tokens()), 64, 128, x, 0, 1.0)[0] for x in (0, 64)), [])
    weights = [STRENGTH * region_weights(region(16)[0, :, part], TEXT, (16, 8)) for part in reversed(HALVES)]
    # ComfyUI calls the entries that it joins in reversed order.
    bias = make_bias(COUNT + TEXT + 32, [(0, COUNT, torch.stack(weights))], COUNT, batch=2)
    assert relative(joined, sample(scene, scene.dense_model(bias), NOISE, plain)) < 1e-5
