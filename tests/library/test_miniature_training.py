"""The recipe of the miniature, end to end on a few made-up icons: autoencoder, training, resume, export, sampling."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from miniature.recipe import batches, export, train, train_autoencoder
from miniature.recipe.autoencoder import load_autoencoder
from miniature.recipe.sampling import Miniature
from miniature.recipe.scenes import Emoji
from miniature.recipe.vocabulary import build_vocabulary

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="training needs torch 2.9, for Muon")

NAMES = ("cat", "dog", "fox", "owl", "red-apple", "star", "heart", "tram")
SIZE = ("--hidden", "128", "--double", "1", "--single", "1", "--context", "64")
FEW = ("--batch", "4", "--pool", "8", "--chunk", "4", "--device", "cpu", "--muon")
SHORT = (*SIZE, *FEW, "--seconds", "0.01")


def call(module: object, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Muon computes in bfloat16, for which many a processor needs a hundred times as long.
        patch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
        patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        module.main()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured squares in the file format of `miniature.recipe.data`."""
    pixels = np.zeros((4, len(NAMES), 128, 128, 4), np.uint8)
    pixels[:, :, 32:96, 32:96] = 255
    pixels[:, :, 32:96, 32:96, :3] = np.random.default_rng(0).integers(0, 255, (4, len(NAMES), 1, 1, 3))
    path = tmp_path_factory.mktemp("icons") / "emoji.npz"
    held_out = np.arange(len(NAMES)) == 2
    categories = ["Animals & Nature"] * len(NAMES)
    np.savez(path, allow_pickle=False, pixels=pixels, names=NAMES, categories=categories, held_out=held_out)
    return path


@pytest.fixture(scope="module")
def folder(emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family after one step for the autoencoder and two runs of one step for the rest, exported to `models`."""
    folder = tmp_path_factory.mktemp("trained")
    autoencoder, checkpoint = folder / "autoencoder.pt", folder / "miniature.pt"
    call(train_autoencoder, emoji, autoencoder, "--seconds", 0.01, "--batch", 4, "--device", "cpu")
    for _ in range(2):
        call(train, emoji, "--autoencoder", autoencoder, "--checkpoint", checkpoint, "--total", 10, *SHORT)
    call(export, folder / "miniature.weights.pt", autoencoder, emoji, folder / "models")
    return folder


def test_training_resumes(folder: Path) -> None:
    state = torch.load(folder / "miniature.pt")
    assert state["step"] == 2
    assert [samples for _, samples, _ in state["history"]] == [4, 8]


def test_what_is_exported_samples_and_goes_on_training(emoji: Path, folder: Path) -> None:
    models, checkpoint = folder / "models", folder / "further.pt"
    before = Miniature(models)
    assert before.sample(["red apple, flat style"], steps=2).shape == (1, 3, 128, 128)
    assert before.prompt("red apple, flat style").shape == (3, 64)
    vae = models / "vae" / "redux-mini-vae.safetensors"
    run = ("--autoencoder", vae, "--checkpoint", checkpoint, "--start", models, "--total", 10, "--rate", 1e-9)
    call(train, emoji, *run, *SHORT)
    weights = torch.load(folder / "further.weights.pt")
    assert weights["step"] == 1
    for part, module in (("flux", before.flux), ("redux", before.redux)):
        for name, value in module.state_dict().items():
            assert torch.allclose(weights["average"][f"{part}.{name}"].float(), value, rtol=1e-2, atol=1e-5), name


@pytest.mark.parametrize("kind", batches.SHARES)
def test_every_kind_of_batch(emoji: Path, kind: str) -> None:
    """Latents are the pictures' own, references are pictures, and a mask leaves every query something to read."""
    icons = Emoji(emoji, "cpu")
    vocabulary = build_vocabulary(icons.names, icons.categories)
    made = batches.Batches(icons, vocabulary, lambda pictures: pictures.mean((1, 2, 3)).half()[:, None], 8, 4)
    for _ in range(5):
        batch = made.draw(kind, 6)
        rows, count = batch.words.shape
        assert rows == len(batch.latents) == 6
        assert batch.words.min() >= 0 and batch.words.max() < len(vocabulary.words)
        pictures = {"two": 2, "two region": 2, "text": 0, "text two": 0}.get(kind, 1)
        assert (batch.references is None) == (pictures == 0)
        if batch.references is not None:
            assert batch.references.shape == (6, pictures, 3, 128, 128)
            assert batch.references.min() >= 0 and batch.references.max() <= 1
        assert (batch.mask is not None) == (kind in batches.CLOSED)
        if batch.mask is not None:
            length = pictures * 64 + count + 64
            assert batch.mask.shape == (6, 1, length, length)
            assert batch.mask.any(-1).all() and not batch.mask.all()


def test_words_never_name_what_was_held_out(emoji: Path) -> None:
    icons = Emoji(emoji, "cpu")
    vocabulary = build_vocabulary(icons.names, icons.categories)
    made = batches.Batches(icons, vocabulary, lambda pictures: pictures.mean((1, 2, 3)).half()[:, None], 64, 32)
    seen = {vocabulary.words[row] for _ in range(8) for row in made.draw("text", 64).words.flatten().tolist()}
    assert {"cat", "dog", "flat style"} <= seen
    assert "fox" not in seen


def test_an_exported_autoencoder_is_read_back(folder: Path) -> None:
    first, second = (load_autoencoder(path) for path in (folder / "autoencoder.pt", next(folder.glob("models/vae/*"))))
    assert second["scale"] == pytest.approx(first["scale"], rel=1e-3)
    assert second["shift"] == pytest.approx(first["shift"], abs=1e-3)
    for part in ("encoder", "decoder"):
        for name, value in first[part].items():
            assert torch.allclose(second[part][name], value, rtol=1e-2, atol=1e-4), name
