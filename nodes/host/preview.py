"""Previews of what a node has read: small JPEG files in ComfyUI's temp folder."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import folder_paths
import torch
from PIL import Image

QUALITY = 90
JOBS = 4  # Pillow lets other threads run while it encodes


def save_previews(images: Iterable[torch.Tensor]) -> dict[str, Any]:
    """Save pictures [Y, X, 3] in 0..1 on any device; returns what a node's `ui` takes."""
    return begin_previews(images)()


def begin_previews(images: Iterable[torch.Tensor]) -> Callable[[], dict[str, Any]]:
    """Begin to save pictures while other work goes on; what is returned waits for them, and gives the same."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    levels = [(image_YXC * 255).round().byte().cpu().numpy() for image_YXC in images]
    names = [f"redux_{uuid.uuid4().hex}.jpg" for _ in levels]

    def save(pixels: Any, name: str) -> None:
        Image.fromarray(pixels).save(folder / name, quality=QUALITY, subsampling=0)

    pool = ThreadPoolExecutor(JOBS)
    saved = pool.map(save, levels, names)
    pool.shutdown(wait=False)

    def finish() -> dict[str, Any]:
        list(saved)
        return {"images": [{"filename": name, "subfolder": "", "type": "temp"} for name in names]}

    return finish
