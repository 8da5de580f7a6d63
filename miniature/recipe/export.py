"""Training checkpoints to the files that users install, in the layouts of the real models.

    python -m miniature.recipe.export CKPT/miniature.weights.pt CKPT/autoencoder.pt .mini/emoji.npz MODELS --pack

writes the five files below MODELS as ComfyUI looks for them; `--pack` also writes them to miniature/weights in parts
below 16 MB, with `manifest.json`, for `install.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from redux import ReduxConfig
from redux.adapter import to_hf, tower_map
from redux.config import write_metadata
from redux.words import METADATA_KEY, WEIGHT_KEY

from .autoencoder import autoencoder_weights, load_autoencoder
from .train import TOWER
from .vocabulary import build_vocabulary

PART = 15_000_000
WEIGHTS = Path(__file__).parents[1] / "weights"
Files = dict[str, tuple[dict[str, Tensor], dict[str, str]]]


def collect(trained: dict[str, Any], autoencoder: dict[str, Any], emoji: Path) -> Files:
    """(tensors, metadata) by path below a models folder."""
    average = trained["average"]

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in average.items() if key.startswith(prefix)}

    with np.load(emoji) as arrays:
        names, categories = arrays["names"].tolist(), arrays["categories"].tolist()
    words, rows = build_vocabulary(names, categories).entries()
    projector = part("redux.projector.")
    hidden, inputs = projector["redux_up.weight"].shape
    config = ReduxConfig(in_features=inputs, hidden_features=hidden, out_features=len(projector["redux_down.weight"]))
    table = {WEIGHT_KEY: average["words.weight"][list(rows)]}
    return {
        "diffusion_models/redux-mini-flux.safetensors": (part("flux."), {}),
        "vae/redux-mini-vae.safetensors": (autoencoder_weights(autoencoder), {}),
        "clip_vision/redux-mini-siglip.safetensors": (
            to_hf(tower_map(TOWER), part("redux.tower.")),
            write_metadata(vision=TOWER),
        ),
        "style_models/redux-mini-projector.safetensors": (projector, write_metadata(projector=config)),
        "text_encoders/redux-mini-words.safetensors": (table, {METADATA_KEY: json.dumps(words)}),
    }


def write(files: Files, models: Path) -> None:
    """Everything in fp16."""
    for name, (tensors, metadata) in files.items():
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        half = {key: value.detach().cpu().half().contiguous().clone() for key, value in tensors.items()}
        broken = [key for key, value in half.items() if not bool(torch.isfinite(value).all())]
        if broken:
            raise ValueError(f"{len(broken)} tensors of {name} are not finite in fp16, e.g. '{broken[0]}'.")
        save_file(half, path, metadata or None)


def pack(models: Path, names: list[str], folder: Path) -> None:
    """Cut the files into parts and list them with their SHA-256, and with those of earlier releases."""
    folder.mkdir(exist_ok=True)
    listed = folder / "manifest.json"
    released = json.loads(listed.read_text("ascii")) if listed.exists() else {}
    for old in folder.glob("*.part*"):
        old.unlink()
    manifest = {}
    total = 0
    for name in names:
        data = (models / name).read_bytes()
        parts: list[str] = []
        total += len(data)
        for number, start in enumerate(range(0, len(data), PART), 1):
            parts.append(f"{Path(name).name}.part{number}")
            (folder / parts[-1]).write_bytes(data[start : start + PART])
        digest, old = hashlib.sha256(data).hexdigest(), released.get(name, {})
        earlier = sorted({*old.get("earlier", ()), *([old["sha256"]] if old else ())} - {digest})
        manifest[name] = {"bytes": len(data), "sha256": digest, "parts": parts, "earlier": earlier}
    listed.write_text(json.dumps(manifest, indent=1) + "\n", "ascii")
    print(f"{total / 1e6:.1f} MB in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("autoencoder", type=Path)
    parser.add_argument("emoji", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--pack", action="store_true")
    arguments = parser.parse_args()
    trained = torch.load(arguments.weights, map_location="cpu")
    files = collect(trained, load_autoencoder(arguments.autoencoder), arguments.emoji)
    write(files, arguments.models)
    if arguments.pack:
        pack(arguments.models, list(files), WEIGHTS)


if __name__ == "__main__":
    main()
