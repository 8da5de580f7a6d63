"""Defects of other Redux systems, each with a test that would find it here.

| where | defect | test |
|---|---|---|
| ComfyUI core | attn_bias at strength 0: NaN, a black picture | test_strength_zero_is_the_text_alone |
| ComfyUI core | a batch of prompts does not take one picture | test_a_batch_of_prompts_with_one_picture |
| ComfyUI core | several pictures become one long sequence, none for each image | test_batches: per image |
| ComfyUI core | attn_bias with Kontext's reference latents: sizes do not match | test_kontext_with_a_strength |
| ComfyUI core | the sides are cut off by default | test_nothing_is_cut_off_by_default |
| ComfyUI core | CLIP ViT-H or a cut file loads and fails later with shapes | library: test_wrong_files |
| ComfyUI core | alpha is dropped: what lies behind it is read | test_what_lies_behind_alpha_is_not_read |
| ComfyUI core | which of two chained references came first matters | test_the_order_of_a_chain_does_not_matter |
| kaibioinfo | a batch of 4 is one grid of 54 x 54 tokens; of 2 or 3: an error | test_a_batch_is_never_one_large_grid |
| kaibioinfo | RGBA, or a mask that is not connected, stops with an attribute or channel error | test_rgba_and_no_mask |
| kaibioinfo | a mask of another size than the picture: an error | test_a_mask_of_any_size |
| kaibioinfo | an empty mask drops all tokens without a word, or an IndexError | test_an_empty_mask_is_one_sentence |
| kaibioinfo | tokens at the edge of a mask shrink towards zero, yet stay | test_tokens_at_the_edge_keep_their_length |
| kaibioinfo, KJNodes | an attention mask that is there is not extended, or ignored | test_conditioning_nodes: kept |
| kaibioinfo | chained masks: the second undoes or breaks the first | test_chained_masks |
| kaibioinfo | tensors on CPU and GPU meet | library: test_mix (device), test_memory (dtypes) |
| CY-CHENYUE, krita-ai-diffusion | "keep aspect ratio" still cuts the centre out | test_a_wide_picture_keeps_its_sides |
| CRT-Nodes | a cache whose key leaves the prompt out: the old prompt is drawn | server: test_stale |
| ETN, SwarmUI | only the first entry of a conditioning gets the reference | test_every_entry_gets_the_reference |
| ETN | strength 0 keeps 729 zero tokens | test_strength_zero_is_the_text_alone |
| ETN, SwarmUI | a second reference overwrites the time range of the first | test_several, test_schedule |
| core's schedule | two references that meet at a boundary both act there | test_schedule: never together |
| Fluxtapoz | region inverted, first mask only, 256 text tokens assumed | test_the_region_is_where_it_is_painted |
| RES4LYF, FluxMod | the number of tokens must be a square | test_any_number_of_tokens |
| diffusers | several pictures are summed at the same positions | test_two_pictures_are_not_their_sum |
| diffusers | a whole-number scale is an IndexError | test_whole_numbers_are_numbers |
| mflux | missing weights become 1, silently | library: test_mix (wrong weights) |
| YarvixPA | attn_bias has no effect | test_strength_has_an_effect_everywhere |
| 1038lab | "AttnBias" is added to the tokens; twice as many tokens, banding | test_strength is a dense bias |
| yichengup | a layer of random weights: another picture in each session | test_the_same_reference_every_time |
| Nunchaku | attn_bias is ignored without a word | test_session: named once |
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from redux_scene import count_calls, relative


@pytest.fixture(scope="module")
def model(comfy: Any, redux_nodes: Any) -> Any:
    return redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "fp32").args[0]


@pytest.fixture(scope="module")
def encode(redux_nodes: Any, model: Any) -> Any:
    """encode(image, mask=None, fit="stretch") -> tokens, through the node."""

    def run(image: torch.Tensor, mask: torch.Tensor | None = None, fit: str = "stretch") -> Any:
        return redux_nodes["ReduxEncode"].execute(model, image, {"fit": fit}, mask).args[0]

    return run


def picture(seed: int = 0, height: int = 60, width: int = 60, batch: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(seed))


def test_strength_zero_is_the_text_alone(scene: Any) -> None:
    conditioning = scene.apply(scene.text, scene.tokens(), strength=0.0)
    assert conditioning[0][0].shape == scene.text[0][0].shape
    assert torch.equal(scene.sample(conditioning), scene.sample(scene.text))
    almost = scene.sample(scene.apply(scene.text, scene.tokens(), strength=1e-30))
    assert relative(almost, scene.sample(scene.text)) < 1e-5


def test_a_batch_of_prompts_with_one_picture(scene: Any) -> None:
    prompts = scene.comfy.conditioning(seed=4, batch=3)
    latent = scene.comfy.empty_latent(batch=3)
    together = scene.sample(scene.apply(prompts, scene.tokens(), strength=0.5), latent=latent)
    for index in range(3):
        one = [[prompts[0][0][index : index + 1], {"pooled_output": torch.zeros(1, 768)}]]
        alone = scene.sample(scene.apply(one, scene.tokens(), strength=0.5), latent=latent)
        assert relative(together[index], alone[index]) < 1e-5


def test_kontext_with_a_strength(scene: Any) -> None:
    text = scene.comfy.conditioning(seed=1, reference_latents=[torch.randn(1, 16, 12, 20)])
    weak, plain = (scene.sample(scene.apply(text, scene.tokens(), strength=s)) for s in (0.3, 1.0))
    assert bool(torch.isfinite(weak).all()) and relative(weak, plain) > 1e-3


def test_nothing_is_cut_off_by_default(encode: Any, redux_nodes: Any) -> None:
    """The default is the first fit of the list; a change at the very side of a wide picture is seen."""
    (fit,) = [item for item in redux_nodes["ReduxEncode"].GET_SCHEMA().inputs if item.id == "fit"]
    assert fit.options[0].key == "stretch"
    wide = picture(height=40, width=160)
    changed = wide.clone()
    changed[:, :, :20] = 1 - changed[:, :, :20]
    assert relative(encode(changed).tokens, encode(wide).tokens) > 1e-2
    assert torch.equal(encode(changed, fit="crop").tokens, encode(wide, fit="crop").tokens)


@pytest.mark.parametrize("fit", ["pad", "native", "tiles"])
def test_a_wide_picture_keeps_its_sides(redux_nodes: Any, model: Any, fit: str) -> None:
    wide = picture(height=40, width=160)
    changed = wide.clone()
    changed[:, :, :20] = 1 - changed[:, :, :20]
    options = {"fit": fit, "rows": 1, "columns": 4, "token_budget": 640} if fit == "tiles" else {"fit": fit}
    before, after = (redux_nodes["ReduxEncode"].execute(model, image, options).args[0] for image in (wide, changed))
    assert relative(after.kept()[0], before.kept()[0]) > 1e-2


def test_what_lies_behind_alpha_is_not_read(encode: Any) -> None:
    rgba = picture(channels=4)
    rgba[..., 3] = 1
    rgba[:, :, 30:, 3] = 0
    other = rgba.clone()
    other[:, :, 30:, :3] = torch.rand(1, 60, 30, 3)
    first, second = encode(rgba), encode(other)
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.coverage, second.coverage)
    assert len(first.kept()[0]) < 64, "and no black or white background is"


def test_the_order_of_a_chain_does_not_matter(scene: Any) -> None:
    a, b = scene.tokens(1), scene.tokens(2)
    ab = scene.apply(scene.apply(scene.text, a, strength=0.3), b, strength=0.6)
    ba = scene.apply(scene.apply(scene.text, b, strength=0.6), a, strength=0.3)
    assert relative(scene.sample(ab), scene.sample(ba)) < 1e-5


@pytest.mark.parametrize("batch", [2, 3, 4, 9])
def test_a_batch_is_never_one_large_grid(encode: Any, redux_nodes: Any, batch: int) -> None:
    """4 x 64 is 16 squared: pooled as one grid, rows of one picture would mix with those of the next."""
    pictures = picture(batch=batch)
    together = redux_nodes["ReduxPool"].execute(encode(pictures), 3, 3).args[0]
    alone = [redux_nodes["ReduxPool"].execute(encode(one[None]), 3, 3).args[0].tokens for one in pictures]
    assert together.tokens.shape[:2] == (batch, 9)
    assert relative(together.tokens, torch.cat(alone)) < 1e-5


def test_rgba_and_no_mask(encode: Any) -> None:
    opaque = torch.cat([picture(), torch.ones(1, 60, 60, 1)], dim=-1)
    for fit in ("stretch", "crop", "pad", "native"):
        assert torch.equal(encode(opaque, fit=fit).tokens, encode(picture(), fit=fit).tokens)
        assert torch.equal(encode(opaque, None, fit).tokens, encode(picture(), fit=fit).tokens)


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (7, 300), (60, 60)])
def test_a_mask_of_any_size(encode: Any, size: tuple[int, int]) -> None:
    """ComfyUI's Load Image itself gives 64 x 64 for a picture without alpha."""
    white = encode(picture(height=40, width=90), torch.ones(1, *size))
    assert torch.equal(white.tokens, encode(picture(height=40, width=90)).tokens)
    assert torch.allclose(white.coverage, torch.ones(()))


def test_an_empty_mask_is_one_sentence(encode: Any) -> None:
    for fit in ("stretch", "crop", "pad", "native"):
        with pytest.raises(ValueError, match="leaves nothing of the reference; paint white where it is to be read"):
            encode(picture(), torch.zeros(1, 60, 60), fit)
        # 64 x 64 zeros are what Load Image gives for a picture without alpha.
        assert torch.equal(encode(picture(), torch.zeros(1, 64, 64), fit).tokens, encode(picture(), fit=fit).tokens)


def test_tokens_at_the_edge_keep_their_length(encode: Any) -> None:
    """A mask says what is read, and not how small a token is: not even after pooling."""
    soft = torch.linspace(0.02, 1, 60).expand(1, 60, 60)
    masked, whole = encode(picture(), soft), encode(picture())
    assert torch.equal(masked.tokens, whole.tokens)
    for grid in ((4, 4), (3, 5), (1, 1)):
        lengths = masked.pool(grid).tokens.norm(dim=-1) / whole.pool(grid).tokens.norm(dim=-1)
        assert float(lengths.min()) > 0.6 and float(lengths.max()) < 1.7


def test_chained_masks(scene: Any) -> None:
    """Two references with regions side by side: each acts on its side, as with one dense bias."""
    left, right = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    left[..., :8], right[..., 8:] = 1, 1
    a, b = scene.tokens(1), scene.tokens(2)
    both = scene.apply(scene.apply(scene.text, a, region=left), b, region=right)
    only_a = scene.apply(scene.text, a, region=left)
    steps = {"steps": 1}
    change = (scene.sample(both, **steps) - scene.sample(only_a, **steps)).abs().mean((0, 1, 2))
    assert float(change[9:].mean()) > 3 * float(change[:7].mean())


def test_every_entry_gets_the_reference(scene: Any) -> None:
    nodes = scene.comfy.nodes
    entries = nodes.ConditioningCombine().combine(scene.text, scene.comfy.conditioning(seed=2, tokens=5))[0]
    applied = scene.apply(entries, scene.tokens(), strength=0.5)
    model, calls = count_calls(scene.flux)
    scene.sample(applied, model, steps=1)
    assert sorted(call["context"].shape[1] for call in calls) == [16 + 5, 16 + 8]
    separate = [scene.apply([entry], scene.tokens(), strength=0.5)[0] for entry in entries]
    assert relative(scene.sample(applied), scene.sample(separate)) < 1e-6


def test_the_region_is_where_it_is_painted(scene: Any) -> None:
    """With as many text tokens as there are, and the second mask for the second image."""
    for texts in (3, 20):
        text = scene.comfy.conditioning(seed=1, tokens=texts)
        masks = torch.zeros(2, 16, 16)
        masks[0, :, :8], masks[1, :, 8:] = 1, 1
        latent = scene.comfy.empty_latent(batch=2)
        plain = scene.sample(text, latent=latent, steps=1)
        changed = scene.sample(scene.apply(text, scene.tokens(), region=masks), latent=latent, steps=1)
        change_BX = (changed - plain).abs().mean((1, 2))
        assert float(change_BX[0, :8].mean()) > 2 * float(change_BX[0, 8:].mean())
        assert float(change_BX[1, 8:].mean()) > 2 * float(change_BX[1, :8].mean())


def test_any_number_of_tokens(scene: Any, encode: Any) -> None:
    """Native grids, masks and pools give 17 or 40 tokens; nothing here needs a square."""
    mask = torch.zeros(1, 60, 60)
    mask[:, :11, :] = 1
    for tokens in (encode(picture(height=30, width=90), fit="native"), encode(picture(), mask), scene.tokens(rows=5)):
        result = scene.sample(scene.apply(scene.text, tokens, strength=0.5))
        assert bool(torch.isfinite(result).all())


def test_two_pictures_are_not_their_sum(scene: Any, encode: Any) -> None:
    tokens = encode(picture(batch=2))
    conditioning = scene.apply(scene.text, tokens)
    model, calls = count_calls(scene.flux)
    scene.sample(conditioning, model, steps=1)
    assert calls[0]["context"].shape[1] == 2 * 64 + 8
    assert torch.equal(calls[0]["context"][0, :128], tokens.tokens.flatten(0, 1).to(calls[0]["context"]))


def test_whole_numbers_are_numbers(scene: Any) -> None:
    whole = scene.apply(scene.text, scene.tokens(), strength=2, start_percent=0, end_percent=1)
    assert torch.equal(scene.sample(whole), scene.sample(scene.apply(scene.text, scene.tokens(), strength=2.0)))


def test_strength_has_an_effect_everywhere(scene: Any) -> None:
    """From 0.001 to 10 each step moves the picture away from the one without the reference; none is dead."""
    plain = scene.sample(scene.text, steps=1)
    strengths = (0.001, 0.01, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0)
    away = [
        relative(scene.sample(scene.apply(scene.text, scene.tokens(), strength=s), steps=1), plain) for s in strengths
    ]
    assert all(later > 1.2 * earlier for earlier, later in zip(away, away[1:], strict=False))


def test_the_same_reference_every_time(comfy: Any, redux_nodes: Any, encode: Any) -> None:
    torch.manual_seed(1)
    first = encode(picture())
    torch.manual_seed(2)
    fresh = redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "fp32").args[0]
    assert torch.equal(
        redux_nodes["ReduxEncode"].execute(fresh, picture(), {"fit": "stretch"}).args[0].tokens, first.tokens
    )
