"""The miniature's studies of presets and knobs: references act as the dense sampler has them; boxes; the digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from miniature.install import install
from miniature.recipe.calibrate import MiniaturePainter
from miniature.recipe.knobs import best_of
from miniature.recipe.presets import boxes, overlap
from miniature.recipe.sampling import Miniature, Reference, log_strength
from miniature.recipe.steering import Steered, acting, paint
from redux.calibration import Picture
from redux.schedule import BlockWeights, Schedule

PROMPT = ["large house"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    install(folder)
    return folder


@pytest.fixture(scope="module")
def mini(models: Path) -> Miniature:
    return Miniature(models)


@pytest.fixture(scope="module")
def tokens(mini: Miniature) -> torch.Tensor:
    picture = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return mini.refer(torch.nn.functional.interpolate(picture, size=128))


@pytest.mark.parametrize(("strength", "referred"), [(1.0, False), (0.3, False), (1.0, True)])
def test_a_weight_is_that_of_the_dense_sampler(
    mini: Miniature, tokens: torch.Tensor, strength: float, referred: bool
) -> None:
    steered = Steered(tokens, acting(strength=strength, response="weight"))
    mine = paint(mini, PROMPT, steered, steered if referred else None, seeds=[0], steps=2)
    reference = Reference(tokens, log_strength(strength))
    assert torch.allclose(mine, mini.sample(PROMPT, [reference], steps=2, seed=0, referred=referred), atol=1e-3)


def test_outside_its_time_a_reference_is_not_there(mini: Miniature, tokens: torch.Tensor) -> None:
    """Of two steps the second begins at a half."""
    early = Steered(tokens, acting(schedule=Schedule(0.0, 0.4)))
    late = Steered(tokens, acting(schedule=Schedule(0.4, 1.0)))
    none, all_ = (paint(mini, PROMPT, one, seeds=[0], steps=2) for one in (None, Steered(tokens, acting())))
    made = [paint(mini, PROMPT, one, seeds=[0], steps=2) for one in (early, late)]
    assert all(float((one - end).abs().max()) > 0.02 for one in made for end in (none, all_))
    assert torch.equal(paint(mini, PROMPT, Steered(tokens, acting(strength=0.0)), seeds=[0], steps=2), none)


def test_head_weights_reach_single_heads(mini: Miniature, tokens: torch.Tensor) -> None:
    text = "double:=0, single:=0"
    none = paint(mini, PROMPT, Steered(tokens, acting(blocks=BlockWeights.parse(text))), seeds=[0], steps=1)
    assert torch.allclose(none, paint(mini, PROMPT, None, seeds=[0], steps=1), atol=1e-3)
    one = paint(mini, PROMPT, Steered(tokens, acting(blocks=BlockWeights.parse("double:.h1=0"))), seeds=[0], steps=1)
    assert float((one - none).abs().max()) > 0.02


def test_the_painter_of_a_calibration_names_its_model_as_the_pack_does(mini: Miniature, models: Path) -> None:
    painter = MiniaturePainter(mini, models, steps=1, cfg=2.0)
    assert (painter.model.double, painter.model.single, painter.model.heads) == (2, 4, 3)
    assert len(painter.model.digest) == 12
    look = painter.look(Picture("large house", 1, Picture("large fox, noto style", 2)))
    assert look.statistics.shape == (512,) and look.structure.shape == (64 * 64,)


def test_boxes_are_found_and_compared() -> None:
    picture = torch.zeros(3, 3, 100, 100)
    picture[0, :, 20:60, 10:50] = 1.0
    picture[1, :, 20:60, 30:70] = 1.0
    found = boxes(picture)
    assert found.tolist()[:2] == [pytest.approx([0.1, 0.2, 0.5, 0.6]), pytest.approx([0.3, 0.2, 0.7, 0.6])]
    assert found[2].tolist() == [0, 0, 0, 0]
    assert overlap(found[:1], found[1:2]).item() == pytest.approx(1 / 3)
    assert overlap(found[:1], found[2:]).item() == 0


def test_the_best_cell_has_most_of_all_three() -> None:
    assert best_of({"a": {"all three": 0.2, "object": 1.0}, "b": {"all three": 0.4, "object": 0.5}}) == "b"
