"""Settings of the endpoints: redux-api.json in ComfyUI's user folder, and the environment.

    REDUX_API=1                 switches them on (0 off, whatever the file says)
    REDUX_API_KEYS=key1,key2    who may come in; without keys, this machine alone
    REDUX_API_URL=https://...   how callers reach this server, where that is not what they ask for (a proxy)

Keys are read from the environment alone, so that no file holds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

FILE = "redux-api.json"


@dataclass(frozen=True)
class Models:
    """File names as ComfyUI's loaders list them; the defaults are this pack's miniature.

    A real FLUX.1 has `clip_l` and `t5xxl`; the miniature has `words` in their place. `guidance` says what a request's
    guidance means: "embedded" is FLUX.1 [dev]'s distilled guidance, "cfg" is classifier-free guidance.
    """

    diffusion_model: str = "redux-mini-flux.safetensors"
    vae: str = "redux-mini-vae.safetensors"
    clip_vision: str = "redux-mini-siglip.safetensors"
    style_model: str = "redux-mini-projector.safetensors"
    words: str = "redux-mini-words.safetensors"
    clip_l: str = ""
    t5xxl: str = ""
    weight_dtype: str = "default"
    guidance: str = "embedded"


@dataclass(frozen=True)
class Settings:
    """`trusted_hosts` are host names whose pictures are fetched wherever they resolve to: a server of one's own."""

    enabled: bool = False
    public_url: str = ""
    keep_hours: float = 24.0
    max_queue: int = 100
    max_body_mb: float = 30.0
    max_image_mb: float = 20.0
    max_megapixels: float = 64.0
    max_files: int = 1000
    max_files_mb: float = 1000.0
    fetch_seconds: float = 20.0
    body_seconds: float = 30.0
    decode_seconds: float = 15.0
    key_share: float = 0.5
    embed_workflow: bool = False
    safety_threshold: float = 0.8
    trusted_hosts: tuple[str, ...] = ()
    models: Models = field(default_factory=Models)
    keys: tuple[str, ...] = ()


def load_settings(path: Path, environ: Mapping[str, str]) -> Settings:
    """Settings from a file, which may be missing, and the environment, which wins.

    Raises:
        ValueError: the file is no JSON object, or has an entry of an unknown name or a wrong type.
    """
    entries = _read(path)
    if "keys" in entries:
        raise ValueError(f"{path.name} holds keys; set them in the environment variable REDUX_API_KEYS instead.")
    models = Models(**_checked(path.name, "models.", Models, entries.pop("models", {})))
    values = _checked(path.name, "", Settings, entries)
    if environ.get("REDUX_API"):
        values["enabled"] = environ["REDUX_API"] not in ("0", "false", "no", "off")
    if environ.get("REDUX_API_URL"):
        values["public_url"] = environ["REDUX_API_URL"]
    values["public_url"] = values.get("public_url", "").rstrip("/")
    keys = tuple(key.strip() for key in environ.get("REDUX_API_KEYS", "").split(",") if key.strip())
    return Settings(**values, models=models, keys=keys)


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}.") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path.name} holds no JSON object.")
    return entries


def _checked(name: str, where: str, kind: type, entries: Any) -> dict[str, Any]:
    """Entries whose names and types are those of a dataclass's plain fields."""
    defaults = {item.name: item.default for item in fields(kind) if item.name not in ("models", "keys")}
    if not isinstance(entries, dict):
        raise ValueError(f"{name} has {where.rstrip('.')} that is no JSON object.")
    values = {}
    for key, value in entries.items():
        if key not in defaults:
            raise ValueError(f"{name} has an unknown entry {where}{key}; known are {', '.join(defaults)}.")
        wanted = type(defaults[key])
        if wanted is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = tuple(value)
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise ValueError(f"{name} has {value!r} as {where}{key}; something like {defaults[key]!r} is needed.")
        values[key] = value
    return values
