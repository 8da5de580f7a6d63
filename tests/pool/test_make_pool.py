"""`make pool`: a real ComfyUI with the miniature behind a real broker, and nothing left of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import psutil
import pytest
from caller import V3, Api, base64_of, wave
from PIL import Image
from scenes import wait_until

from tools import rabbitmq
from tools.errors import ToolError
from tools.pool import explain, provide_rabbitmq, running

REFERENCE = Path(__file__).resolve().parents[2] / "miniature" / "references" / "first.png"


def likeness(picture: Image.Image) -> float:
    """Correlation with the reference at 16 x 16 pixels."""
    with Image.open(REFERENCE) as reference:
        small = [
            np.asarray(image.convert("RGB").resize((16, 16)), np.float32).ravel() for image in (picture, reference)
        ]
    return float(np.corrcoef(small)[0, 1])


def test_a_picture_of_the_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if rabbitmq.find_program() is None:
        pytest.skip(rabbitmq.MISSING)
    with running(tmp_path, hosts=1, port=0) as pool:
        explain(pool)
        assert capsys.readouterr().out.count("curl ") == 2
        api = Api(pool.gateways["gateway"].url)
        image, small = base64_of(REFERENCE.read_bytes()), {"num_inference_steps": 4, "output_format": "webp"}
        body = wave(image=image, guidance_scale=2, seed=1, **small)
        done = api.finish(api.post(V3, body).json["data"]["urls"]["get"], 300)
        assert done["status"] == "completed", done
        picture = Image.open(io.BytesIO(api.get(done["outputs"][0]).body))
        assert picture.format == "WEBP" and likeness(picture) > 0.4
        folder = tmp_path / "comfyui-1"
        left = [path for name in ("input", "output") for path in (folder / name / "redux-api").rglob("*.*")]
        assert not left, "the worker removes what the host was given and what was fetched from it"
    # What was killed may take a moment to be gone.
    wait_until(lambda: not [one for one in psutil.process_iter(["cmdline"]) if is_of(tmp_path, one)])


def is_of(folder: Path, process: psutil.Process) -> bool:
    return str(folder) in " ".join(process.info["cmdline"] or ())


def test_without_rabbitmq_and_without_the_right_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.pool.find_program", lambda: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ToolError, match="RabbitMQ is not installed here; install it"):
        provide_rabbitmq()
