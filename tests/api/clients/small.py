"""What schemathesis draws, made small: only what is good already is exchanged, so that bad data stays bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs

DOCUMENT = json.loads((Path(__file__).parents[3] / "api" / "openapi.json").read_text("utf-8"))
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGM8ESXHgA0wYRUdtBIA/zIBUFXKRGIAAAAASUVORK5CYII="
SMALL: dict[str, Any] = {"num_inference_steps": 1, "megapixels": "0.25", "num_images": 1, "num_outputs": 1}
ABSENT = object()


def shrink(path: str, body: Any, **more: Any) -> None:
    """50 steps at 1536 x 1536 would be a test of patience. `more` are further fields to exchange."""
    inputs = body.get("input", body) if isinstance(body, dict) else None
    size = "512*512" if "/v2/" in path else "256*256"
    for field, small in {**SMALL, "size": size, **more}.items():
        if isinstance(inputs, dict) and _is_valid(path, field, inputs.get(field, ABSENT)):
            inputs[field] = small


def _is_valid(path: str, field: str, value: Any) -> bool:
    """Whether the endpoint has this field and the value, or its default, is good there."""
    if path.endswith("/flux-redux-dev"):
        name = "WaveSpeedInputV2" if "/v2/" in path else "WaveSpeedInputV3"
    elif path in ("/v1/predictions", "/v1/models/black-forest-labs/flux-redux-dev/predictions"):
        name = "ReplicateInput"
    else:
        return False
    schema = DOCUMENT["components"]["schemas"][name]
    known = schema["properties"].get(field)
    if known is None or (value is ABSENT and field in schema["required"]):
        return False
    return value is ABSENT or jsonschema_rs.is_valid(known, value)
