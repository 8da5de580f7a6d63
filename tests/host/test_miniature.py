"""What the controls do to pictures: the trained miniature through ComfyUI's nodes, on objects held out of training.

Likeness is measured without any model: the correlation of two pictures at 16 x 16 pixels, background and all. The
figures with an independent classifier, over many objects, are in miniature/README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from redux_scene import queue_with
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

ROOT = Path(__file__).resolve().parents[2]
STEPS, CFG = 8, 2.0
Apply = Callable[..., list]


class Mini:
    """The five files of the miniature, loaded by ComfyUI's loaders and ours."""

    def __init__(self, comfy: Any, redux_nodes: dict[str, Any]) -> None:
        self.comfy, self.redux = comfy, redux_nodes
        self.flux = comfy.load_flux("redux-mini-flux.safetensors")
        self.vae = comfy.load_vae("redux-mini-vae.safetensors")
        self.clip = self._run("ReduxMiniatureText", "redux-mini-words.safetensors")
        self.model = self._run("ReduxLoader", "redux-mini-siglip.safetensors", "redux-mini-projector.safetensors")

    def _run(self, node: str, *args: Any, **kwargs: Any) -> Any:
        return self.redux[node].execute(*args, **kwargs).args[0]

    def say(self, prompt: str) -> list:
        return self.comfy.nodes.CLIPTextEncode().encode(self.clip, prompt)[0]

    def encode(self, picture: Tensor) -> Any:
        return self._run("ReduxEncode", self.model, picture, {"fit": "stretch"})

    def apply(self, conditioning: list, tokens: Any, **options: Any) -> list:
        return self._run("ReduxApply", conditioning, tokens, **options)

    def pool(self, tokens: Any, side: int) -> Any:
        return self._run("ReduxPool", tokens, side, side)

    def paint(self, conditioning: list, seed: int = 1, negative: list | None = None) -> Tensor:
        """[1, 128, 128, 3] in 0..1."""
        negative = negative or self.say("")
        latent = self.comfy.sample(self.flux, conditioning, negative, steps=STEPS, cfg=CFG, seed=seed)
        return self.comfy.nodes.VAEDecode().decode(self.vae, {"samples": latent})[0]


@pytest.fixture(scope="module")
def mini(comfy: Any, redux_nodes: dict[str, Any]) -> Mini:
    sys.path.append(str(ROOT))
    try:
        from miniature.install import install
    finally:
        sys.path.remove(str(ROOT))
    install(comfy.models)
    return Mini(comfy, redux_nodes)


@pytest.fixture(scope="module")
def first() -> Tensor:
    return read("first.png")


@pytest.fixture(scope="module")
def second() -> Tensor:
    return read("second.png")


def read(name: str) -> Tensor:
    image = Image.open(ROOT / "miniature" / "references" / name).convert("RGB")
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)[None]


def likeness(a: Tensor, b: Tensor) -> float:
    small = [adaptive_avg_pool2d(picture.movedim(-1, 1), 16).flatten() for picture in (a, b)]
    return float(torch.corrcoef(torch.stack(small))[0, 1])


def half(side: str) -> Tensor:
    mask = torch.zeros(1, 128, 128)
    mask[:, :, slice(0, 64) if side == "left" else slice(64, 128)] = 1
    return mask


def test_reference_alone_gives_different_pictures_of_the_same_thing(mini: Mini, first: Tensor, second: Tensor) -> None:
    conditioning = mini.apply(mini.say(""), mini.encode(first))
    pictures = [mini.paint(conditioning, seed) for seed in (1, 2)]
    for picture in pictures:
        assert likeness(picture, first) > 0.8 > 0.5 > likeness(picture, second)
    assert (pictures[0] - pictures[1]).abs().mean() > 0.01


def test_strength_moves_the_picture_from_the_text_to_the_reference(mini: Mini, first: Tensor) -> None:
    text, tokens = mini.say("red apple, large, center"), mini.encode(first)
    pictures = [mini.paint(mini.apply(text, tokens, strength=s)) for s in (0.0, 0.1, 1.0, 2.0)]
    near = [likeness(picture, first) for picture in pictures]
    assert near[0] < near[1] < near[2] and near[3] > near[2] - 0.02  # above 1 there is little left to gain
    assert near[2] - near[0] > 0.4
    assert torch.equal(pictures[0], mini.paint(text))


def test_schedule_decides_what_the_reference_gives(mini: Mini, first: Tensor) -> None:
    text, tokens = mini.say("red apple, large, center"), mini.encode(first)
    early = likeness(mini.paint(mini.apply(text, tokens, end_percent=0.5)), first)
    late = likeness(mini.paint(mini.apply(text, tokens, start_percent=0.5)), first)
    assert early > late + 0.2  # the first steps lay out the picture


@pytest.mark.parametrize("side", ["left", "right"])
def test_region_places_the_reference_and_leaves_the_rest_to_the_text(mini: Mini, first: Tensor, side: str) -> None:
    """The ghost is white, the apple red: white pixels are inside the region, red ones outside."""
    text = mini.say("red apple, side by side")
    picture = mini.paint(mini.apply(text, mini.encode(first), region=half(side)))[0]
    red, green, blue = picture.unbind(-1)
    ghost = picture.amin(-1) > 0.7
    apple = (red > 0.6) & (green < 0.35) & (blue < 0.4)
    inside = half(side)[0] > 0
    assert ghost[inside].sum() > 10 * ghost[~inside].sum()
    assert apple[~inside].sum() > 10 * apple[inside].sum()
    assert min(int(ghost.sum()), int(apple.sum())) > 200


def test_two_references_appear_each_in_its_region(mini: Mini, first: Tensor, second: Tensor) -> None:
    """The ghost is white, the umbrella purple."""
    conditioning = mini.apply(mini.say("side by side"), mini.encode(first), region=half("left"))
    picture = mini.paint(mini.apply(conditioning, mini.encode(second), region=half("right")))[0]
    red, green, blue = picture.unbind(-1)
    white = picture.amin(-1) > 0.8
    purple = (red > 0.45) & (red < 0.75) & (green < 0.5) & (blue > 0.6)
    left = half("left")[0] > 0
    assert white[left].sum() > max(100, 4 * white[~left].sum()), (white[left].sum(), white[~left].sum())
    assert purple[~left].sum() > max(100, 4 * purple[left].sum()), (purple[left].sum(), purple[~left].sum())


def test_single_heads_carry_the_object(mini: Mini, first: Tensor) -> None:
    """Head 1 brings in the reference's object; head 2 may be left out."""
    text, tokens = mini.say("red apple, large, center"), mini.encode(first)
    rules = {head: f"double:.h{head}=0, single:.h{head}=0" for head in (1, 2)}
    near = {head: likeness(mini.paint(mini.apply(text, tokens, blocks=rules[head])), first) for head in rules}
    assert near[2] > 0.8 > near[1] + 0.2


def test_a_reference_in_the_negative_keeps_the_picture_away(mini: Mini, first: Tensor) -> None:
    """The text alone gives a picture; with that very picture in the negative, another background and other colours."""
    text = mini.say("ghost, large, center")
    plain = mini.paint(text)
    away = mini.paint(text, negative=mini.apply(mini.say(""), mini.encode(plain)))
    same = mini.paint(text, negative=mini.apply(mini.say(""), mini.encode(plain), strength=0.0))
    assert torch.equal(same, plain)
    assert (away - plain).abs().mean() > 0.1


def test_normalize_keeps_more_of_a_pooled_reference(mini: Mini, first: Tensor) -> None:
    """At equal token counts; with an empty prompt that says nothing else."""
    text, tokens = mini.say("red apple, large, center"), mini.pool(mini.encode(first), 4)
    kept = likeness(mini.paint(mini.apply(text, tokens, normalize=True)), first)
    weak = likeness(mini.paint(mini.apply(text, tokens, normalize=False)), first)
    assert kept > weak


def test_text_alone_draws_what_it_names_on_the_background_it_names(mini: Mini) -> None:
    """A red heart fills the middle; green stands at the border."""
    picture = mini.paint(mini.say("large red heart, center, plain green background"))[0]
    red, green, blue = picture.unbind(-1)
    heart, grass = (red > 0.6) & (green < 0.4), (green > red + 0.15) & (green > blue + 0.15)
    assert heart[44:84, 44:84].float().mean() > 0.8
    border = torch.cat((grass[:6].flatten(), grass[-6:].flatten()))
    assert border.float().mean() > 0.9


def test_text_changes_style_and_background_of_the_reference(mini: Mini, first: Tensor) -> None:
    """The ghost is shaded in its own style and evenly white in the flat one; its background follows the text."""
    tokens = mini.encode(first)
    plain = mini.paint(mini.apply(mini.say(""), tokens))[0]
    told = mini.paint(mini.apply(mini.say("flat style, pink background"), tokens))[0]
    for picture, colour in ((plain, (0.27, 0.43, 0.86)), (told, (0.94, 0.59, 0.75))):
        assert (picture[:6].mean((0, 1)) - torch.tensor(colour)).abs().max() < 0.15
    whites = [(picture.amin(-1) > 0.97).sum() for picture in (plain, told)]
    assert whites[1] > 1000 and whites[1] > 4 * whites[0], whites


def test_influence_agrees_with_the_regions(
    mini: Mini, first: Tensor, second: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reference acts in its half only, and most where its object stands: in the middle rows."""
    monkeypatch.setitem(sys.modules, "server", queue_with("KSampler", "ReduxInfluence"))
    conditioning = mini.apply(mini.say("side by side"), mini.encode(first), region=half("left"))
    conditioning = mini.apply(conditioning, mini.encode(second), region=half("right"))
    mini.paint(conditioning)
    (result,) = sys.modules[mini.redux["ReduxInfluence"].__module__].recorded(conditioning)
    left, right = result.maps_BSyx[0, 0], result.maps_BSyx[0, 1]
    assert not left[:, 4:].any() and not right[:, :4].any()
    for own in (left[:, :4], right[:, 4:]):
        assert own[2:6].mean() > 1.5 * own[[0, 1, 6, 7]].mean()
