"""The shipped miniature: its parts join into files that our loaders read, and nothing of a user's is overwritten."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from miniature import install as installer
from redux import ReduxModel
from redux.words import WordTable

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    installer.install(folder)
    return folder


def test_sizes(root: Path) -> None:
    sizes = [path.stat().st_size for path in (root / "miniature").rglob("*") if path.is_file()]
    assert sum(sizes) <= 60 * MEGABYTE
    assert max(sizes) < 16 * MEGABYTE


def test_tower_and_projector_load(models: Path) -> None:
    model = ReduxModel.load(
        models / "clip_vision" / "redux-mini-siglip.safetensors",
        models / "style_models" / "redux-mini-projector.safetensors",
        dtype=torch.float32,
    )
    tokens = model.encode(torch.rand(2, 90, 120, 3)).tokens
    width = load_file(models / "diffusion_models" / "redux-mini-flux.safetensors")["txt_in.weight"].shape[1]
    assert tokens.shape == (2, 64, width)
    assert not torch.allclose(tokens[0], tokens[1], atol=1e-2)


def test_everything_is_half_precision_and_finite(models: Path) -> None:
    for path in models.rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert tensor.dtype == torch.float16, (path.name, name)
            assert torch.isfinite(tensor).all(), (path.name, name)


def test_words_of_an_ordinary_sentence(models: Path) -> None:
    table = WordTable.load(models / "text_encoders" / "redux-mini-words.safetensors")

    def read(text: str) -> list[str]:
        return [table.words[row] for row in table.ids(text)]

    sentence = "A red apple in fluent style on a blue background, on the left"
    assert read(sentence) == ["red apple", "fluent style", "fluent style", "blue background", "left"]
    assert read("a T-shirt beside a red_apple") == ["t shirt", "beside", "red apple"]
    assert read("") == read("nothing that it knows") == [""]
    rows = {word: row for row, word in enumerate(table.words)}
    twice = {word for word in rows if table.words.count(word) == 2}
    assert twice == {word for word in rows if word.endswith(" style")} and len(twice) == 7
    assert len(rows) + len(twice) == len(table.words)
    first = table.words.index("flat style")
    assert torch.equal(table.weight_VD[first], table.weight_VD[rows["flat style"]])  # rows holds the second
    assert torch.equal(table.weight_VD[rows["beside"]], table.weight_VD[rows["side by side"]])
    assert not torch.equal(table.weight_VD[rows["red apple"]], table.weight_VD[rows["green apple"]])


def test_autoencoder_keys_and_latent_moments(models: Path) -> None:
    weights = load_file(models / "vae" / "redux-mini-vae.safetensors")
    assert {key.split(".")[0] for key in weights} == {"taesd_encoder", "taesd_decoder", "vae_scale", "vae_shift"}
    assert weights["taesd_decoder.1.weight"].shape[1] == 16


def test_held_out_objects_are_words_too(root: Path, models: Path) -> None:
    names = (root / "miniature" / "recipe" / "held_out.txt").read_text("ascii").split()
    words = set(WordTable.load(models / "text_encoders" / "redux-mini-words.safetensors").words)
    assert len(set(names)) == len(names) == 100
    assert {name.replace("-", " ") for name in names} <= words


def test_licences_are_named(root: Path) -> None:
    text = (root / "miniature" / "README.md").read_text("utf-8")
    for needed in ("Apache-2.0", "CC BY 4.0", "MIT", "Noto Emoji", "Twemoji", "Fluent Emoji"):
        assert needed in text, needed


def test_install_needs_only_python_and_repeats(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", str(root / "miniature" / "install.py"), str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    changed = {path: Path(path).stat().st_mtime_ns for path in first}
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert first == again
    assert len(first) == 5
    assert changed == {path: Path(path).stat().st_mtime_ns for path in first}


def test_another_file_of_the_name_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "vae" / "redux-mini-vae.safetensors"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="is there and is another file"):
        installer.install(tmp_path)
    assert mine.read_bytes() == b"mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_the_file_of_an_earlier_release_is_renewed(tmp_path: Path) -> None:
    weights, models, name = tmp_path / "weights", tmp_path / "models", "vae/new.safetensors"
    weights.mkdir()
    (models / "vae").mkdir(parents=True)
    (weights / "new.part1").write_bytes(b"new")
    digests = [hashlib.sha256(data).hexdigest() for data in (b"new", b"old")]
    entry = {"bytes": 3, "sha256": digests[0], "parts": ["new.part1"], "earlier": digests[1:]}
    (weights / "manifest.json").write_text(json.dumps({name: entry}), "ascii")
    (models / name).write_bytes(b"old")
    installer.install(models, weights)
    assert (models / name).read_bytes() == b"new"


def test_damaged_and_missing_parts_are_refused(tmp_path: Path) -> None:
    weights, models = tmp_path / "weights", tmp_path / "models"
    weights.mkdir()
    with pytest.raises(FileNotFoundError, match="models folder"):
        installer.install(models, weights)
    models.mkdir()
    name = "vae/redux-mini-vae.safetensors"
    manifest = json.loads((installer.WEIGHTS / "manifest.json").read_text("ascii"))
    (weights / "manifest.json").write_text(json.dumps({name: manifest[name]}), "ascii")
    with pytest.raises(FileNotFoundError):
        installer.install(models, weights)
    (weights / manifest[name]["parts"][0]).write_bytes(b"\0" * manifest[name]["bytes"])
    with pytest.raises(ValueError, match="damaged"):
        installer.install(models, weights)
    assert not list(models.rglob("*.*"))
