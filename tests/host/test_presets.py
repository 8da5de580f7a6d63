"""Presets at Apply Redux, and the node that makes them, on a small FLUX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

COUNTS = {"double": 1, "single": 2}  # blocks of the small FLUX


@pytest.fixture
def model_name(scene: Any, pack: Any) -> Any:
    from redux_control.nodes.host.model_name import name_model

    return name_model(scene.flux.model.diffusion_model, "flux-small")


def table(heads: int, factor: float, first: float = 0.0) -> dict[str, list[list[float]]]:
    return {kind: [[first, *[factor] * (heads - 1)] for _ in range(count)] for kind, count in COUNTS.items()}


@pytest.fixture
def preset(comfy: Any, pack: Any, model_name: Any, tmp_path: Path) -> Any:
    """Writes a file of presets into the output folder and gives the choice of its style."""
    written: list[Path] = []

    def write(name: str = "small", **model: Any) -> str:
        presets = pack.redux.presets.Presets
        from dataclasses import replace

        path = Path(comfy.folder_paths.get_output_directory()) / "redux" / f"{name}.json"
        made_for = replace(model_name, **model)
        presets(made_for, {"style": table(made_for.heads, 0.25)}, {}).save(path)
        written.append(path)
        return f"style: redux/{name}.json [output]"

    yield write
    for path in written:
        path.unlink()


def test_a_preset_is_its_head_weights(scene: Any, preset: Any) -> None:
    tokens = scene.tokens()
    rules = "double:=0.25, single:=0.25, double:.h0=0, single:.h0=0"
    by_rules = scene.sample(scene.apply(scene.text, tokens, strength=0.8, blocks=rules, response="even"))
    by_preset = scene.sample(scene.apply(scene.text, tokens, strength=0.8, preset=preset(), response="even"))
    assert torch.equal(by_rules, by_preset)
    plain = scene.sample(scene.apply(scene.text, tokens, strength=0.8, response="even"))
    assert not torch.allclose(plain, by_preset, atol=1e-3)


def test_the_digest_is_that_of_the_file(comfy: Any, pack: Any, model_name: Any) -> None:
    """So that presets made from the file alone, as the miniature's, fit the model that ComfyUI loads from it."""
    from safetensors.torch import load_file

    weights = load_file(comfy.models / "diffusion_models" / comfy.files.diffusion_models)
    names = ["double_blocks.0.img_mod.lin.bias", *(f"single_blocks.{n}.modulation.lin.bias" for n in range(2))]
    names = [next(key for key in weights if key.endswith(name)) for name in names]
    biases = {f"{index:03}": weights[name].half() for index, name in enumerate(names)}
    assert pack.redux.model.fingerprint(biases) == model_name.digest


def test_rules_beside_a_preset_win(scene: Any, preset: Any) -> None:
    tokens = scene.tokens()
    both = scene.apply(scene.text, tokens, preset=preset(), blocks="double:=1, single:=1")
    assert torch.allclose(scene.sample(both), scene.sample(scene.apply(scene.text, tokens)), atol=1e-5)


@pytest.mark.parametrize("other", [{"digest": "feedfeedfeed"}, {"single": 38, "double": 19, "heads": 24}])
def test_a_preset_for_another_model_is_refused_by_name(
    scene: Any, pack: Any, model_name: Any, comfy: Any, other: dict[str, Any]
) -> None:
    from dataclasses import replace

    made_for = replace(model_name, name="flux1-krea", **other)
    rows = {kind: [[0.5] * made_for.heads] * getattr(made_for, kind) for kind in ("double", "single")}
    path = Path(comfy.folder_paths.get_output_directory()) / "redux" / "other.json"
    pack.redux.presets.Presets(made_for, {"style": rows}, {}).save(path)
    try:
        conditioning = scene.apply(scene.text, scene.tokens(), preset="style: redux/other.json [output]")
        with pytest.raises(ValueError, match="was made for flux1-krea .*, but this model is another .*Calibrate Redux"):
            scene.sample(conditioning)
    finally:
        path.unlink()


def test_an_unknown_preset_is_one_sentence(redux_nodes: dict[str, Any], scene: Any) -> None:
    for node in ("ReduxApply", "ReduxSweep"):
        said = redux_nodes[node].validate_inputs(preset="mood: redux/nothing.json [output]")
        assert said.startswith("There is no preset 'mood: redux/nothing.json [output]'; choose one of the list")
        assert redux_nodes[node].validate_inputs(preset="none") is True
        assert redux_nodes[node].validate_inputs(preset="").startswith("There is no preset ''")
    with pytest.raises(ValueError, match="There is no preset 'mood'"):
        scene.apply(scene.text, scene.tokens(), preset="mood")


def test_a_damaged_file_offers_nothing(comfy: Any, pack: Any) -> None:
    from redux_control.nodes.presets import preset_choices

    folder = Path(comfy.folder_paths.get_output_directory()) / "redux"
    folder.mkdir(exist_ok=True)
    (folder / "damaged.json").write_text(json.dumps({"redux": "presets", "version": 1}), "ascii")
    try:
        assert not [choice for choice in preset_choices() if "damaged" in choice]
    finally:
        (folder / "damaged.json").unlink()


def test_a_saved_conditioning_still_knows_its_model(scene: Any, preset: Any, pack: Any, tmp_path: Path) -> None:
    from redux_control.nodes.host.conditioning import find_mark
    from redux_control.nodes.host.conditioning_store import load_conditioning, save_conditioning

    conditioning = scene.apply(scene.text, scene.tokens(), preset=preset())
    save_conditioning(conditioning, tmp_path / "a.safetensors")
    loaded = load_conditioning(tmp_path / "a.safetensors")
    ((_, before),), ((_, after),) = conditioning, loaded
    assert find_mark(after).references[0].blocks == find_mark(before).references[0].blocks
    assert torch.equal(scene.sample(loaded), scene.sample(conditioning))


class Words:
    """A CLIP of random vectors, one set for each text."""

    def __init__(self, comfy: Any) -> None:
        self.comfy = comfy

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list:
        return self.comfy.conditioning(seed=sum(map(ord, text)))


def calibrate(scene: Any, comfy: Any, redux_nodes: dict[str, Any], **options: Any) -> Any:
    redux = redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "default").args[0]
    return redux_nodes["ReduxCalibrate"].execute(
        scene.flux, Words(comfy), comfy.load_vae(), redux, "a cat\na boat", "ink\noil", minutes=0.001, steps=1, side=64,
        cases=1, **{"filename_prefix": "redux/measured", **options},
    )  # fmt: skip


def test_a_calibration_is_interrupted_goes_on_and_serves_its_model(
    scene: Any, comfy: Any, redux_nodes: dict[str, Any], pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as memory
    from redux_control.nodes.host.paint import FluxPainter
    from redux_control.nodes.presets import preset_choices

    paint, painted = FluxPainter.paint, []

    def counted(self: Any, picture: Any) -> Any:
        if len(painted) == 20:
            painted.append(picture)
            memory.interrupt_current_processing()
        painted.append(picture)
        return paint(self, picture)

    monkeypatch.setattr(FluxPainter, "paint", counted)
    with pytest.raises(memory.InterruptProcessingException):
        calibrate(scene, comfy, redux_nodes)
    first = len(painted)
    report = calibrate(scene, comfy, redux_nodes).args[0]
    assert len({picture.key for picture in painted}) >= len(painted) - 8  # references are painted anew, no more
    assert first < len(painted)
    assert "presets for" in report and "composition" in report
    choice = next(choice for choice in preset_choices() if choice.startswith("style: redux/measured_00001_"))
    scene.sample(scene.apply(scene.text, scene.tokens(), preset=choice))
    path = Path(comfy.folder_paths.get_output_directory()) / "redux" / "measured_00001_.json"
    facts = json.loads(path.read_text("ascii"))
    assert set(facts["presets"]) == {"style", "composition", "subject"}
    left = Path(comfy.folder_paths.get_user_directory()) / "redux-calibration"
    assert not any(left.iterdir())
    path.unlink()


@pytest.mark.parametrize(("name", "value", "words"), [
    ("filename_prefix", "../p", "The prefix '../p' leads out of the output folder"),
    ("guidance", float("nan"), "The guidance is nan; a finite number is needed"),
])  # fmt: skip
def test_nothing_is_measured_that_cannot_be_kept(
    scene: Any, comfy: Any, redux_nodes: dict[str, Any], pack: Any, monkeypatch: pytest.MonkeyPatch, name: str,
    value: Any, words: str,
) -> None:  # fmt: skip
    """It was refused after the whole measurement; a prefix by wire is not known before the node runs."""
    monkeypatch.setattr(pack.nodes.host.paint.FluxPainter, "paint", lambda *_: pytest.fail("it measures"))
    with pytest.raises(ValueError, match=words):
        calibrate(scene, comfy, redux_nodes, **{name: value})


@pytest.mark.parametrize("words", ["a cat", "", "a cat\n  a cat \n"])
def test_too_few_words_are_one_sentence(redux_nodes: dict[str, Any], words: str) -> None:
    said = redux_nodes["ReduxCalibrate"].validate_inputs(contents=words, styles=None)
    assert said.endswith("different contents; at least 2 are needed, one a line.")
