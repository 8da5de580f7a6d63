"""The endpoints on the trained miniature, which their settings name when nobody names other files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from caller import Api, base64_of, prediction, wave
from PIL import Image

from miniature.install import install
from tools.api_server import make_server

REFERENCE = Path(__file__).resolve().parents[2] / "miniature" / "references" / "first.png"


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("miniature")
    (folder / "models").mkdir()
    install(folder / "models")
    with make_server(folder, models={"guidance": "cfg"}) as running:
        yield Api(running.url)


def likeness(picture: Image.Image) -> float:
    """Correlation with the reference at 16 x 16 pixels."""
    with Image.open(REFERENCE) as reference:
        small = [
            np.asarray(image.convert("RGB").resize((16, 16)), np.float32).ravel() for image in (picture, reference)
        ]
    return float(np.corrcoef(small)[0, 1])


def test_both_vendors_requests_give_the_reference(miniature: Api) -> None:
    """At the smallest sizes that the vendors allow, which are larger than the miniature's own."""
    image = base64_of(REFERENCE.read_bytes())
    asked = wave(image=image, num_inference_steps=4, guidance_scale=2, seed=1)
    job = miniature.post("/api/v3/wavespeed-ai/flux-redux-dev", asked).json["data"]
    done = miniature.finish(job["urls"]["get"])
    assert done["status"] == "completed", done
    assert likeness(miniature.picture(done["outputs"][0])) > 0.4

    body = prediction(redux_image=f"data:image/png;base64,{image}", num_inference_steps=4, guidance=2, seed=1)
    answer = miniature.post("/v1/models/black-forest-labs/flux-redux-dev/predictions", body).json
    done = miniature.finish(answer["urls"]["get"])
    assert done["status"] == "succeeded", done
    assert Image.open(io.BytesIO(miniature.get(done["output"][0]).body)).format == "WEBP"
