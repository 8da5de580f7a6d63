"""A sweep and the images that are sampled: pieces of its batch keep their values; of too few it is said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from redux_scene import queue_with, relative

VALUES = (0.0, 0.3, 0.6, 1.0, 2.5)
TOLD = "Redux Sweep has values for 5 images and this sampler has"


class Page:
    """A server that runs a sampler, node 1, behind the node 0."""

    def __init__(self, before: dict[str, Any]) -> None:
        self.shown: list[tuple[str, str]] = []
        self.module = queue_with("", "KSampler")
        server = self.module.PromptServer.instance
        server.client_id, server.send_progress_text = "page", lambda text, node, _: self.shown.append((text, node))
        server.send_sync = lambda *_: None
        prompt = server.prompt_queue.currently_running[0][2]
        prompt["0"].update(before)
        prompt["1"]["inputs"]["latent_image"] = ["0", 0]


@pytest.fixture
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, pack: Any) -> Iterator[Page]:
    page = Page(getattr(request, "param", {"class_type": "VAEEncode", "inputs": {}}))
    monkeypatch.setitem(sys.modules, "server", page.module)
    monkeypatch.setattr(pack.nodes.host.report, "_noted", {})
    with CurrentNodeContext("prompt", "1"):
        yield page


def sweep(scene: Any, batch: int = 1) -> tuple[list, dict[str, Any]]:
    text = ", ".join(map(str, VALUES))
    latent = scene.comfy.empty_latent(batch=batch)
    return scene.nodes["ReduxSweep"].execute(scene.text, scene.tokens(), latent, text, response="even").args[:2]


@pytest.mark.parametrize("batch", [1, 2])
def test_pieces_of_a_sweep_keep_their_values(scene: Any, page: Page, batch: int) -> None:
    """Rebatch Latents and Latent From Batch, though all values have the same noise; and nothing is said."""
    from comfy_extras.nodes_rebatch import LatentRebatch

    swept, repeated = sweep(scene, batch)
    whole = scene.sample(swept, latent=repeated)
    pieces = LatentRebatch.execute([repeated], [2]).args[0]
    assert len(pieces) == -(-batch * len(VALUES) // 2)
    assert relative(torch.cat([scene.sample(swept, latent=piece) for piece in pieces]), whole) < 1e-5
    third = scene.comfy.nodes.LatentFromBatch().frombatch(repeated, 2, 1)[0]
    assert relative(scene.sample(swept, latent=third), whole[2:3]) < 1e-5
    assert page.shown == []


def test_a_piece_that_is_none_of_the_sweeps_keeps_its_place_too(scene: Any, page: Page) -> None:
    """A batch of images with noises of their own, which another graph has split."""
    swept, _ = sweep(scene)
    latent = scene.comfy.empty_latent(batch=5)
    third = scene.comfy.nodes.LatentFromBatch().frombatch(latent, 2, 1)[0]
    assert relative(scene.sample(swept, latent=third), scene.sample(swept, latent=latent)[2:3]) < 1e-5
    assert page.shown == []


@pytest.mark.parametrize("batch", [1, 4])
def test_too_few_images_are_told_once_on_the_sampler(
    scene: Any, page: Page, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Where they may be a piece that nobody has numbered the sampling goes on, and the next one takes the note away."""
    swept, repeated = sweep(scene)
    few = scene.sample(swept, latent=scene.comfy.empty_latent(batch=batch))
    assert len(few) == batch
    ((told, node),) = page.shown
    assert node == "1"
    assert told == f"{TOLD} {batch}, so the last values are left out; connect the latent of Redux Sweep to it."
    assert [record.message for record in caplog.records if TOLD in record.message] == [f"Redux: {told}"]
    scene.sample(swept, latent=repeated)
    assert page.shown[1:] == [("", "1")]


@pytest.mark.parametrize(
    "page",
    [
        {"class_type": "EmptySD3LatentImage", "inputs": {"batch_size": 1}},
        {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 4}},
        {"class_type": "ReduxSize", "inputs": {}},
    ],
    ids=str,
    indirect=True,
)
def test_an_empty_latent_of_too_few_images_is_refused(scene: Any, page: Page) -> None:
    swept, repeated = sweep(scene)
    with pytest.raises(ValueError, match=f"{TOLD} 1; connect the latent of Redux Sweep to it."):
        scene.sample(swept)
    assert page.shown == [(f"{TOLD} 1; connect the latent of Redux Sweep to it.", "1")]
    scene.sample(swept, latent=repeated)
    assert page.shown[1:] == [("", "1")]


@pytest.mark.parametrize(
    "page",
    [
        {"class_type": "EmptySD3LatentImage", "inputs": {"batch_size": 6}},
        {"class_type": "EmptySD3LatentImage", "inputs": {"batch_size": ["7", 0]}},
    ],
    ids=str,
    indirect=True,
)
def test_a_sampler_that_gets_its_latent_in_pieces_is_not_refused(scene: Any, page: Page) -> None:
    """Other packs' samplers hand on single images of a batch, without their numbers."""
    scene.sample(sweep(scene)[0])
    assert len(page.shown) == 1 and "left out" in page.shown[0][0]


def test_a_preset_of_another_model_is_refused_on_the_sampler(scene: Any, page: Page) -> None:
    pack = scene.pack.redux.schedule
    rules = pack.BlockWeights((("double", 0, 0, 0.5),), made_for=pack.ModelName("flux1-krea", "1234", 19, 38, 24))
    reference = sys.modules["redux_control.redux.reference"]
    tokens_1ND, parts = reference.place_tokens(scene.tokens())
    add = sys.modules["redux_control.nodes.host.conditioning"].add_reference
    with pytest.raises(ValueError, match="was made for flux1-krea") as caught:
        scene.sample(add(scene.text, tokens_1ND, reference.Reference(parts, blocks=rules)))
    assert page.shown == [(str(caught.value), "1")]
