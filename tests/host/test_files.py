"""Save and load of references and conditionings in a real host."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file


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
    with pytest.raises(ValueError, match="is a saved reference; a file of Save Conditioning is needed"):
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


def test_a_file_has_the_tokens_before_the_text(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    """As files of every version have; so have the tokens room in another node's attention mask."""
    mask = torch.rand(1, 24, 24)
    text = comfy.conditioning(seed=3, attention_mask=mask, attention_mask_img_shape=(4, 4))
    cond = redux_nodes["ReduxApply"].execute(text, tokens, strength=0.7, batch="per image").args[0]
    redux_nodes["ReduxSaveConditioning"].execute(cond, "redux/order")
    path = Path(comfy.folder_paths.get_output_directory(), "redux", "order_00001_.safetensors")
    held = load_file(path)
    length = held["0.cond"].shape[1] - 8
    assert 11 <= length <= 32 and len(held["0.cond"]) == 2
    assert torch.equal(held["0.cond"][:, length:], text[0][0].expand(2, -1, -1))
    assert torch.equal(held["0.options.attention_mask"][:, length:, length:], mask)
    assert not held["0.options.attention_mask"][:, :length].any()
    ((loaded, options),) = (
        redux_nodes["ReduxLoadConditioning"].execute("redux/order_00001_.safetensors [output]").args[0]
    )
    assert loaded.shape[1] == 8 and torch.equal(options["attention_mask"], mask)


def test_what_cannot_be_saved_is_named_and_leaves_no_file(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    cond = comfy.conditioning(seed=3, control=object())
    with pytest.raises(ValueError, match="options.control, which cannot be saved"):
        redux_nodes["ReduxSaveConditioning"].execute(cond, "redux/broken")
    assert not any(name.startswith((".broken", "broken")) for name in listed(comfy))


def test_entries_that_share_tensors_are_saved(comfy: Any, redux_nodes: Any) -> None:
    """Combine, Set Area and the like give entries of one text; safetensors refuses tensors that share memory."""
    text = comfy.conditioning(seed=3)
    part = [[text[0][0][:, :5], {**text[0][1], "area": (4, 4, 0, 0), "strength": 0.5}]]
    both = comfy.nodes.ConditioningCombine().combine(text, part)[0] + text
    redux_nodes["ReduxSaveConditioning"].execute(both, "redux/shared")
    loaded = redux_nodes["ReduxLoadConditioning"].execute("redux/shared_00001_.safetensors [output]").args[0]
    assert [entry[0].shape[1] for entry in loaded] == [8, 5, 8]
    assert all(torch.equal(found[0], entry[0]) for found, entry in zip(loaded, both, strict=True))
    assert loaded[1][1]["area"] == (4, 4, 0, 0) and isinstance(loaded[1][1]["area"], tuple)


def test_what_other_nodes_put_into_a_conditioning_comes_back(comfy: Any, redux_nodes: Any) -> None:
    extras = {
        "attention_mask_img_shape": torch.zeros(3, 4).shape,
        "reference_latents": [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 2)],
        "concat_latent_image": torch.randn(1, 16, 4, 4, dtype=torch.bfloat16),
        "nothing": None,
        "nested": {"deep": [1, 2.5, "text", (True, None)]},
    }
    conditioning = comfy.conditioning(seed=3, **extras)
    redux_nodes["ReduxSaveConditioning"].execute(conditioning, "redux/extras")
    options = redux_nodes["ReduxLoadConditioning"].execute("redux/extras_00001_.safetensors [output]").args[0][0][1]
    assert options.keys() == conditioning[0][1].keys()
    assert options["attention_mask_img_shape"] == (3, 4) and options["nested"] == extras["nested"]
    found = [*options["reference_latents"], options["concat_latent_image"]]
    expected = [*extras["reference_latents"], extras["concat_latent_image"]]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "entries",
    [3, [{"dict": {}}], [{"dict": {"cond": {"tensor": "none"}, "options": {"dict": {}}, "references": {"list": []}}}]],
)
def test_a_damaged_conditioning_is_named(comfy: Any, redux_nodes: Any, entries: Any) -> None:
    folder = Path(comfy.folder_paths.get_output_directory(), "redux")
    folder.mkdir(exist_ok=True)
    facts = {"redux.conditioning": json.dumps({"version": 1, "entries": entries})}
    save_file({"0.cond": torch.zeros(1, 2, 3)}, folder / "damaged.safetensors", metadata=facts)
    with pytest.raises(ValueError, match=r"damaged.safetensors is damaged \(.*\); save the conditioning again"):
        redux_nodes["ReduxLoadConditioning"].execute("redux/damaged.safetensors [output]")


def test_a_file_that_changes_is_read_again(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    load, name = redux_nodes["ReduxLoadTokens"], "redux/again_00001_.safetensors [output]"
    redux_nodes["ReduxSaveTokens"].execute(tokens, "redux/again")
    before = load.fingerprint_inputs(file=name)
    assert load.fingerprint_inputs(file=name) == before
    path = Path(comfy.folder_paths.get_output_directory(), "redux", "again_00001_.safetensors")
    path.unlink()
    redux_nodes["ReduxSaveTokens"].execute(tokens.pool((2, 2)), "redux/again")
    assert load.fingerprint_inputs(file=name) != before


def test_two_runs_at_once_take_two_names(comfy: Any, redux_nodes: Any, tokens: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(redux_nodes["ReduxSaveTokens"].execute, tokens, "redux/many") for _ in range(16)]
    names = [Path(run.result().ui["text"][0]).name for run in runs]
    assert sorted(names) == [f"many_{number:05}_.safetensors" for number in range(1, 17)]
