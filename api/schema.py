"""Requests checked against openapi.json, which is the one place where fields, ranges and defaults are written.

Only the part of JSON Schema that the file uses is known here.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import ApiError

FILE = Path(__file__).with_name("openapi.json")
MAX_PARTS = 20_000
"""Of brackets, braces, commas, colons and quotes in a body: a few fields, and a prompt of nothing else."""

PLAIN_TYPES = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The OpenAPI document. Not to be changed."""
    return dict(json.loads(FILE.read_text("utf-8")))


def parse_json(body: bytes) -> Any:
    """JSON as the standard has it: no NaN, no Infinity.

    Raises:
        ApiError: 400, what was sent is something else, or of more parts than any request has. Those are counted before
            it is parsed: parsing 30 MB of brackets would hold the whole server for many seconds.
    """
    if sum(body.count(mark) for mark in b'[]{},:"') > MAX_PARTS:
        raise ApiError(400, "The body has more parts than any request of this interface.")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # not UTF-8, no JSON, a number of too many digits, or nested without end
        raise ApiError(400, "The body is no JSON.") from None


def validate(name: str, value: Any) -> dict[str, Any]:
    """An object of the schema `name`, with the defaults filled in.

    Raises:
        ApiError: 400 with the field's name.
    """
    return dict(_check(_schema(name), value, "", name))


def validate_field(name: str, field: str, value: Any) -> Any:
    """The value of one field of the schema `name`.

    Raises:
        ApiError: 400 with the field's name.
    """
    return _check(_schema(name)["properties"][field], value, field, name)


def _schema(name: str) -> dict[str, Any]:
    return dict(document()["components"]["schemas"][name])


def _check(schema: dict[str, Any], value: Any, field: str, title: str) -> Any:
    if "$ref" in schema:
        schema = _schema(schema["$ref"].rpartition("/")[2])
    value = _check_type(schema, value, field or title)
    if isinstance(value, dict):
        return _check_object(schema, value)
    if isinstance(value, list):
        return [_check(schema["items"], part, field, title) for part in value]
    if isinstance(value, str):
        _check_text(schema, value, field)
    elif value is not None and not isinstance(value, bool) and not _in_range(schema, value):
        raise ApiError(400, f"{field} is {value}; {schema['minimum']} to {schema['maximum']} is needed.", field)
    return value


def _check_object(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    known = schema["properties"]
    for field in value:
        if field not in known:
            raise ApiError(400, f"{_shown(field)} is no field here; known are {', '.join(known)}.", _shown(field))
    for field in schema.get("required", ()):
        if field not in value:
            raise ApiError(400, f"{field} is missing.", field)
    defaults = {field: part["default"] for field, part in known.items() if "default" in part}
    return {**defaults, **{field: _check(known[field], part, field, field) for field, part in value.items()}}


def _check_type(schema: dict[str, Any], value: Any, field: str) -> Any:
    """The value, a whole float as the integer that is wanted."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for kind in kinds:
        if kind in PLAIN_TYPES and isinstance(value, PLAIN_TYPES[kind]):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if kind == "number":
                return value
            if kind == "integer" and (isinstance(value, int) or value.is_integer()):
                return int(value)
    raise ApiError(400, f"{field} has another type; {' or '.join(kinds)} is needed.", field)


def _check_text(schema: dict[str, Any], value: str, field: str) -> None:
    if "enum" in schema and value not in schema["enum"]:
        raise ApiError(400, f"{field} is {_shown(value)}; one of {', '.join(schema['enum'])} is needed.", field)
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        raise ApiError(400, f"{field} is {_shown(value)}; {schema['description']}", field)
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        raise ApiError(400, f"{field} is empty or too long.", field)
    if re.search("[\ud800-\udfff]", value):
        raise ApiError(400, f"{field} holds half a character (a lone surrogate).", field)


def _in_range(schema: dict[str, Any], value: float) -> bool:
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def _shown(text: str) -> str:
    """A caller's text, safe and short enough for an answer."""
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
