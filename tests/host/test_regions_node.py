"""Redux Regions: boxes as masks that Apply Redux takes, over the API as on the page."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def test_boxes_become_regions(redux_nodes: dict[str, Any]) -> None:
    out = redux_nodes["ReduxRegions"].execute("drawn boxes", "0 0 50 100\n50 0 50 50", width=64, height=32)
    masks = out.args
    assert len(masks) == 6 and all(mask.shape == (1, 32, 64) for mask in masks)
    assert masks[0][0, :, :32].min() == 1 and masks[0][0, :, 32:].max() == 0
    assert masks[1][0, :16, 32:].min() == 1 and float(masks[1].mean()) == 0.25
    assert not any(mask.any() for mask in masks[2:])
    (drawn,) = out.ui["redux_regions"]  # for the node's canvas; "images" would be shown a second time below it
    assert drawn["type"] == "temp" and "images" not in out.ui


def test_a_background_gives_the_size(redux_nodes: dict[str, Any]) -> None:
    out = redux_nodes["ReduxRegions"].execute("quarters", background=torch.rand(2, 40, 56, 3))
    assert out.args[3].shape == (1, 40, 56) and out.args[3][0, 20:, 28:].min() == 1


def test_an_empty_region_is_never_what_load_image_gives_without_alpha(redux_nodes: dict[str, Any], pack: Any) -> None:
    """Of 64 x 64 it was read as no region, so a reference without a box acted everywhere."""
    for size in ({"width": 64, "height": 64}, {"background": torch.rand(1, 64, 64, 3)}):
        masks = redux_nodes["ReduxRegions"].execute("left, right", **size).args
        assert pack.nodes.host.mask.read_mask(masks[2], "region") is masks[2] and not masks[2].any()
        assert masks[0].shape[1] == masks[0].shape[2] and float(masks[0].mean()) == 0.5


@pytest.mark.parametrize("text", ["", "0 0 120 10", "5 5 0 0", "left", "\n".join(["0 0 9 9"] * 7)])
def test_bad_boxes_are_refused_before_running(redux_nodes: dict[str, Any], text: str) -> None:
    node = redux_nodes["ReduxRegions"]
    said = node.validate_inputs(layout="drawn boxes", boxes=text)
    assert isinstance(said, str) and said.endswith(".")
    assert node.validate_inputs(layout="quarters", boxes=text) is True
    assert node.validate_inputs(layout=None, boxes=text) is True
    assert node.validate_inputs(layout="fifths", boxes=text).startswith("There is no layout 'fifths'; choose one of")
    with pytest.raises(ValueError, match="[Bb]ox"):
        node.execute("drawn boxes", text)


def test_a_region_acts_as_the_same_mask_by_hand(redux_nodes: dict[str, Any], scene: Any) -> None:
    region = redux_nodes["ReduxRegions"].execute("left, right", width=128, height=128).args[1]
    by_hand = torch.zeros(1, 128, 128)
    by_hand[:, :, 64:] = 1
    drawn, wanted = (scene.sample(scene.apply(scene.text, scene.tokens(), region=mask)) for mask in (region, by_hand))
    assert torch.equal(drawn, wanted)
