"""A server with the hosted endpoints on and small random models behind, for tests and the soak."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from . import checkpoints, host
from .server import Server


def make_server(folder: Path, **settings: Any) -> Server:
    """A server with the endpoints on; `settings` go into redux-api.json. It is not started."""
    names = checkpoints.write_checkpoints(folder / "models")
    models = {
        "diffusion_model": names.diffusion_models,
        "vae": names.vae,
        "clip_vision": names.clip_vision,
        "style_model": names.style_models,
        "words": names.text_encoders,
    }
    (folder / "user").mkdir(parents=True, exist_ok=True)
    config = {"enabled": True, "models": models, **settings}
    (folder / "user" / "redux-api.json").write_text(json.dumps(config), "utf-8")
    return Server(host.ensure(os.environ.get("REDUX_HOST") or None), folder)
