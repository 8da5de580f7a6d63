"""Loaders at "automatic": what is taken from which files, and that a graph is never made of two families."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tools import checkpoints


def empty(*shape: int) -> torch.Tensor:
    """A tensor of a shape whose numbers nobody reads."""
    return torch.zeros(shape, dtype=torch.float8_e4m3fn)


FLUX_FILES: dict[str, dict[str, torch.Tensor]] = {
    "diffusion_models/my-flux.safetensors": {
        "img_in.weight": empty(3072, 64),
        "guidance_in.in_layer.weight": empty(3072, 1),
        "double_blocks.0.img_attn.norm.query_norm.scale": empty(128),
    },
    "diffusion_models/four-steps.safetensors": {
        "model.diffusion_model.img_in.weight": empty(3072, 64),
        "model.diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale": empty(128),
    },
    "diffusion_models/paint.safetensors": {
        "img_in.weight": empty(3072, 384),
        "guidance_in.in_layer.weight": empty(3072, 1),
        "double_blocks.0.img_attn.norm.query_norm.scale": empty(128),
    },
    "diffusion_models/a-chroma.safetensors": {
        "img_in.weight": empty(3072, 64),
        "distilled_guidance_layer.in_proj.weight": empty(1, 1),
        "double_blocks.0.img_attn.norm.query_norm.scale": empty(128),
    },
    "text_encoders/l.safetensors": {"text_model.embeddings.token_embedding.weight": empty(2, 768)},
    "text_encoders/xxl.safetensors": {"encoder.block.23.layer.0.SelfAttention.q.weight": empty(2, 4096)},
    "vae/auto.safetensors": {"decoder.conv_in.weight": empty(512, 16, 1, 1)},
    "clip_vision/siglip.safetensors": {"vision_model.embeddings.position_embedding.weight": empty(729, 1152)},
    "style_models/redux.safetensors": {"redux_up.weight": empty(1, 1152), "redux_down.weight": empty(4096, 1)},
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Model folders of their own, with the small family in them, under ComfyUI's names."""
    import folder_paths

    checkpoints.write_checkpoints(tmp_path)
    for folder in ("diffusion_models", "text_encoders", "vae", "clip_vision", "style_models"):
        endings = folder_paths.folder_names_and_paths[folder][1]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(tmp_path / folder)], endings))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def add_flux(models: Path, *without: str) -> None:
    for name, tensors in FLUX_FILES.items():
        if name not in without:
            save_file(tensors, models / name)


def resolve_all(pack: ModuleType, model: str = "automatic") -> list[str]:
    from redux_control.nodes import flux, load

    return [*flux.resolve(model, "automatic", "automatic", "automatic"), *load.resolve("automatic", "automatic")]


def test_the_small_family_alone(pack: ModuleType, models: Path) -> None:
    names = checkpoints.NAMES
    small = [names.diffusion_models, names.text_encoders, "", names.vae, names.clip_vision, names.style_models]
    assert resolve_all(pack) == small
    assert resolve_all(pack, "automatic: Fill") == small


def test_flux_is_taken_when_it_is_complete(pack: ModuleType, models: Path) -> None:
    small = resolve_all(pack)
    add_flux(models, "style_models/redux.safetensors")
    assert resolve_all(pack) == small, "some files of each family"
    add_flux(models)
    full = ["my-flux", "l", "xxl", "auto", "siglip", "redux"]
    assert resolve_all(pack) == [f"{name}.safetensors" for name in full]


@pytest.mark.parametrize(("kind", "name"), [("Fill", "paint"), ("schnell", "four-steps"), ("Kontext", "my-flux")])
def test_a_kind_is_preferred(kind: str, name: str, pack: ModuleType, models: Path) -> None:
    add_flux(models)
    assert resolve_all(pack, f"automatic: {kind}")[0] == f"{name}.safetensors"


def test_a_kind_that_is_missing_is_known(pack: ModuleType, models: Path) -> None:
    """So that Load FLUX can say what stands in for it; the miniature is of no kind."""
    from redux_control.nodes.host.installed import is_of_kind

    assert not any(is_of_kind(resolve_all(pack)[0], kind) for kind in ("dev", "schnell", "Fill"))
    add_flux(models)
    found = {kind: is_of_kind(resolve_all(pack, f"automatic: {kind}")[0], kind) for kind in ("dev", "Fill", "Kontext")}
    assert found == {"dev": True, "Fill": True, "Kontext": False}


def test_what_stands_in_for_fill_wants_another_guidance(pack: ModuleType, models: Path) -> None:
    from redux_control.nodes.flux import say_stand_in

    add_flux(models)
    assert say_stand_in("Fill", "my-flux.safetensors").endswith("is taken. Set a guidance of 3.5: 30 is Fill's.")
    without = [("Fill", checkpoints.NAMES.diffusion_models), ("Fill", "four-steps.safetensors"),
               ("schnell", "my-flux.safetensors")]  # fmt: skip
    for kind, name in without:
        assert say_stand_in(kind, name) == f"No FLUX.1 {kind} here: {name} is taken."


def test_a_named_file_decides_the_family(pack: ModuleType, models: Path) -> None:
    from redux_control.nodes import flux

    add_flux(models)
    small = checkpoints.NAMES
    found = flux.resolve(small.diffusion_models, "automatic", "automatic", "automatic")
    assert found == [small.diffusion_models, small.text_encoders, "", small.vae]


def test_nothing_installed_is_one_sentence(pack: ModuleType, models: Path) -> None:
    for path in models.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"flux1-redux-dev.safetensors in models/style_models"):
        resolve_all(pack)


def test_a_file_installed_later_is_taken(pack: ModuleType, redux_nodes: dict[str, Any], models: Path) -> None:
    given = dict.fromkeys(("model_name", "text_name_1", "text_name_2", "vae_name"), "automatic")
    before = redux_nodes["ReduxLoadFlux"].fingerprint_inputs(**given)
    add_flux(models)
    assert redux_nodes["ReduxLoadFlux"].fingerprint_inputs(**given) != before


def test_guidance_is_built_in(comfy: Any, redux_nodes: dict[str, Any]) -> None:
    """cfg 1 with the loader's model is cfg 2 with the bare one; another cfg counts as it stands."""
    names = (comfy.files.diffusion_models, "automatic", "automatic", "automatic")  # others may lie beside it
    model, clip, vae = redux_nodes["ReduxLoadFlux"].execute(*names).args
    positive, negative = comfy.conditioning(seed=1), comfy.conditioning(seed=2)
    run = {
        (name, cfg): comfy.sample(model_, positive, negative=negative, cfg=cfg, steps=2)
        for name, model_ in (("built in", model), ("bare", comfy.load_flux()))
        for cfg in (1.0, 2.0, 3.0)
    }
    torch.testing.assert_close(run["built in", 1.0], run["bare", 2.0])
    torch.testing.assert_close(run["built in", 3.0], run["bare", 3.0])
    assert not torch.allclose(run["bare", 1.0], run["bare", 2.0])


def test_a_megapixel_of_the_model(comfy: Any, redux_nodes: dict[str, Any]) -> None:
    size = redux_nodes["ReduxSize"]
    assert size.execute({"aspect_ratio": "1:1"}, 1.0, 1, comfy.load_flux()).args[1:] == (128, 128)
    assert size.execute({"aspect_ratio": "1:1"}, 1.0, 1).args[1:] == (1024, 1024)


def test_example_pictures_are_laid_out_once(pack: ModuleType, redux_nodes: dict[str, Any]) -> None:
    import folder_paths
    from redux_control.nodes.host.examples import EXAMPLES, lay_out_examples

    places = [Path(folder_paths.get_input_directory()) / name for name in EXAMPLES]
    lay_out_examples()
    assert len({place.read_bytes() for place in places}) == 2, "two references that can be told apart"
    places[0].write_bytes(b"mine")
    lay_out_examples()
    assert places[0].read_bytes() == b"mine"
    places[0].unlink()
