"""Save and load of references and conditionings in a real host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def tokens(comfy: Any, pack: Any) -> Any:
    values = torch.randn(2, 16, comfy.sizes.context, generator=torch.Generator().manual_seed(7))
    coverage = torch.ones(2, 16)
    coverage[1, :5] = 0
    return pack.redux.ReduxTokens(values, (pack.redux.tokens.Part(((4, 4),), 16),), coverage, "abc")


def listed(comfy: Any) -> set[str]:
    return {path.name for path in Path(comfy.folder_paths.get_output_directory(), "redux").glob("*")}


def test_reference_round_trip_and_never_overwritten(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    save, load = redux_nodes["ReduxSaveTokens"], redux_nodes["ReduxLoadTokens"]
    for _ in range(2):
        save.execute(tokens, "redux/face")
    names = sorted(name for name in listed(comfy) if name.startswith("face"))
    assert names == ["face_00001_.safetensors", "face_00002_.safetensors"]
    loaded = load.execute(f"redux/{names[0]} [output]").args[0]
    assert torch.equal(loaded.tokens, tokens.tokens) and torch.equal(loaded.coverage, tokens.coverage)
    assert (loaded.parts, loaded.encoder) == (tokens.parts, tokens.encoder)


def test_a_file_of_another_encoder_is_refused(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    redux_nodes["ReduxSaveTokens"].execute(tokens, "redux/foreign")
    model = redux_nodes["ReduxLoader"].execute(comfy.files.clip_vision, comfy.files.style_models, "fp32").args[0]
    load = redux_nodes["ReduxLoadTokens"]
    with pytest.raises(ValueError, match="made by the encoder abc"):
        load.execute("redux/foreign_00001_.safetensors [output]", model)
    own = redux_nodes["ReduxEncode"].execute(model, torch.rand(1, 40, 30, 3), {"fit": "pad"}).args[0]
    redux_nodes["ReduxSaveTokens"].execute(own, "redux/own")
    assert load.execute("redux/own_00001_.safetensors [output]", model).args[0].encoder == own.encoder


@pytest.mark.parametrize("prefix", ["../outside", "/tmp/outside"])
def test_names_stay_inside_the_output_folder(redux_nodes: Any, tokens: Any, prefix: str) -> None:
    with pytest.raises(Exception, match="outside"):
        redux_nodes["ReduxSaveTokens"].execute(tokens, prefix)


@pytest.mark.parametrize("name", ["../x.safetensors [output]", "nothing.safetensors [output]", ""])
def test_only_listed_files_are_read(redux_nodes: Any, name: str) -> None:
    with pytest.raises(ValueError, match="no saved file"):
        redux_nodes["ReduxLoadTokens"].execute(name)


def test_a_file_of_another_kind_is_named(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    redux_nodes["ReduxSaveTokens"].execute(tokens, "redux/other")
    with pytest.raises(ValueError, match="Save Conditioning is needed"):
        redux_nodes["ReduxLoadConditioning"].execute("redux/other_00001_.safetensors [output]")


def test_conditioning_samples_the_same_after_a_round_trip(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    region = torch.zeros(1, 16, 16)
    region[:, :, :8] = 0.5
    text = comfy.conditioning(seed=3, guidance=2.5)
    apply = redux_nodes["ReduxApply"]
    cond = apply.execute(text, tokens, strength=0.7, region=region, end_percent=0.8, blocks="double:0=0.5").args[0]
    cond = apply.execute(cond, tokens, strength=0.3, curve="ease in", batch="per image").args[0]
    redux_nodes["ReduxSaveConditioning"].execute(cond, "redux/cond")
    loaded = redux_nodes["ReduxLoadConditioning"].execute("redux/cond_00001_.safetensors [output]").args[0]
    assert loaded[0][1]["guidance"] == 2.5
    flux, latent = comfy.load_flux(), comfy.empty_latent(batch=2)
    before = comfy.sample(flux, cond, latent=latent, steps=3)
    assert torch.equal(comfy.sample(flux, loaded, latent=latent, steps=3), before)


def test_what_cannot_be_saved_is_named_and_leaves_no_file(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    cond = comfy.conditioning(seed=3, control=object())
    with pytest.raises(ValueError, match="options.control, which cannot be saved"):
        redux_nodes["ReduxSaveConditioning"].execute(cond, "redux/broken")
    assert not any(name.startswith((".broken", "broken")) for name in listed(comfy))
