"""Files that are no saved references, or damaged ones: each is refused with one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from redux.tokens import METADATA_KEY, Part, ReduxTokens


def facts(**changes: Any) -> dict[str, str]:
    parts = [{"grids": [[2, 3], [1, 2]], "full_count": 729, "weight": 1.0}]
    return {METADATA_KEY: json.dumps({"version": 1, "encoder": "abc", "parts": parts, "about": {}, **changes})}


def part(**changes: Any) -> dict[str, Any]:
    return {"parts": [{"grids": [[2, 4]], "full_count": 729, "weight": 1.0, **changes}]}


TENSORS = {"tokens": torch.randn(2, 8, 4)}

DAMAGED = {
    "no tokens": ({"other": torch.zeros(3)}, facts()),
    "whole numbers": ({"tokens": torch.zeros(2, 8, 4, dtype=torch.int32)}, facts()),
    "tokens of another count": ({"tokens": torch.zeros(2, 7, 4)}, facts()),
    "coverage of another count": ({**TENSORS, "coverage": torch.zeros(2, 9)}, facts()),
    "no parts": (TENSORS, facts(parts=[])),
    "parts are a number": (TENSORS, facts(parts=3)),
    "grids are text": (TENSORS, facts(**part(grids="2x4"))),
    "grids of three": (TENSORS, facts(**part(grids=[[2, 2, 2]]))),
    "negative grids": (TENSORS, facts(**part(grids=[[-2, -4]]))),
    "no full count": (TENSORS, facts(**part(full_count=0))),
    "weight of nothing": (TENSORS, facts(**part(weight=0))),
    "weight that is no number": (TENSORS, facts(**part(weight=float("nan")))),
    "about is a list": (TENSORS, facts(about=[1, 2])),
    "tokens that are NaN": ({**TENSORS, "tokens": TENSORS["tokens"] * math.nan}, facts()),
    "coverage that is NaN": ({**TENSORS, "coverage": torch.full((2, 8), math.nan)}, facts()),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    tensors, metadata = DAMAGED[kind]
    save_file(tensors, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=r"^bad.safetensors is damaged \(.+\); save the reference again\.$") as caught:
        ReduxTokens.load(tmp_path / "bad.safetensors")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_without_an_encoder(tmp_path: Path) -> None:
    metadata = {METADATA_KEY: json.dumps({"version": 1, **part()})}
    save_file(TENSORS, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="is damaged"):
        ReduxTokens.load(tmp_path / "bad.safetensors")


FOREIGN: dict[str, tuple[dict[str, str] | None, str]] = {
    "no metadata": (None, "an unknown checkpoint"),
    "not JSON": ({METADATA_KEY: "{"}, "a reference saved by Save Reference is needed"),
    "a list": ({METADATA_KEY: "[]"}, "a reference saved by Save Reference is needed"),
    "no version": ({METADATA_KEY: "{}"}, "a reference saved by Save Reference is needed"),
    "a conditioning": ({"redux.conditioning": "{}"}, "is a saved conditioning; a reference saved by Save Reference"),
    "newer": (facts(version=2), "has format version 2; this pack reads version 1"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named(tmp_path: Path, kind: str) -> None:
    metadata, words = FOREIGN[kind]
    save_file(TENSORS, tmp_path / "bad.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=words):
        ReduxTokens.load(tmp_path / "bad.safetensors")


def test_a_model_is_called_by_its_name(files: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="is a Redux projector; a reference saved by Save Reference is needed"):
        ReduxTokens.load(files[1])


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_files_are_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    ReduxTokens(TENSORS["tokens"], (Part(((2, 4),), 729),)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is not a safetensors file, or it is truncated"):
        ReduxTokens.load(path)


def test_a_folder_is_no_reference(tmp_path: Path) -> None:
    """Of several files in it, one was taken without a word."""
    for name in ("a", "b"):
        ReduxTokens(TENSORS["tokens"], (Part(((2, 4),), 729),)).save(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="is a folder; a reference saved by Save Reference is needed"):
        ReduxTokens.load(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file .*none.safetensors"):
        ReduxTokens.load(tmp_path / "none.safetensors")
