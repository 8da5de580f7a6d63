"""Requests checked against openapi.json, which is the one place where fields, ranges and defaults are written.

Only the part of JSON Schema that the file uses is known here.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import ApiError, shown

FILE = Path(__file__).with_name("openapi.json")
MAX_PARTS = 20_000
"""Of brackets, braces, commas, colons and quotes in a body: a few fields, and a prompt of nothing else."""

PLAIN_TYPES = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}

TYPE_WORDS = {"string": "a string", "boolean": "true or false", "object": "an object", "array": "an array"}
TYPE_WORDS |= {"null": "null", "integer": "an integer", "number": "a number"}


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
    if not body.strip():
        raise ApiError(400, "The body is empty; an object of JSON is needed.")
    if (count := sum(body.count(mark) for mark in b'[]{},:"')) > MAX_PARTS:
        raise ApiError(
            400, f"The body has more parts than any request: {count} marks of JSON; {MAX_PARTS} are the most."
        )
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, too many digits, or nested without end
        place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(400, f"The body is no JSON{place}.") from None


def validate(name: str, value: Any) -> dict[str, Any]:
    """An object of the schema `name`, with the defaults filled in.

    Raises:
        ApiError: 400 with the field's name.
    """
    return dict(_check(_schema(name), value, "", "The body"))


def validate_field(name: str, field: str, value: Any) -> Any:
    """The value of one field of the schema `name`.

    Raises:
        ApiError: 400 with the field's name.
    """
    return _check(_schema(name)["properties"][field], value, field, field)


def _schema(name: str) -> dict[str, Any]:
    return dict(document()["components"]["schemas"][name])


def _check(schema: dict[str, Any], value: Any, field: str, name: str) -> Any:
    """Args: `name` is what is checked in words, a part of a field for instance."""
    if "$ref" in schema:
        schema = _schema(schema["$ref"].rpartition("/")[2])
    value = _check_type(schema, value, field, name)
    if isinstance(value, dict):
        return _check_object(schema, value)
    if isinstance(value, list):
        return [_check(schema["items"], part, field, f"{name}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, str):
        _check_text(schema, value, field, name)
    elif value is not None and not isinstance(value, bool) and not _in_range(schema, value):
        needed = f"{schema['minimum']} to {schema['maximum']}"
        raise ApiError(400, f"{name} is {_found(value)}; {needed} is needed.", field)
    return value


def _check_object(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    known = schema["properties"]
    for field in value:
        if field not in known:
            raise ApiError(400, f"{shown(field)} is no field here; known are {', '.join(known)}.", shown(field))
    for field in schema.get("required", ()):
        if field not in value:
            raise ApiError(400, f"{field} is missing.", field)
    defaults = {field: part["default"] for field, part in known.items() if "default" in part}
    return {**defaults, **{field: _check(known[field], part, field, field) for field, part in value.items()}}


def _check_type(schema: dict[str, Any], value: Any, field: str, name: str) -> Any:
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
    raise ApiError(
        400, f"{name} is {_found(value)}; {' or '.join(TYPE_WORDS[kind] for kind in kinds)} is needed.", field
    )


def _check_text(schema: dict[str, Any], value: str, field: str, name: str) -> None:
    if "enum" in schema and value not in schema["enum"]:
        raise ApiError(400, f"{name} is {_found(value)}; one of {', '.join(schema['enum'])} is needed.", field)
    if len(value) < schema.get("minLength", 0):
        raise ApiError(400, f"{name} has {len(value)} characters; the least is {schema['minLength']}.", field)
    if len(value) > schema.get("maxLength", len(value)):
        raise ApiError(400, f"{name} has {len(value)} characters; {schema['maxLength']} are the most.", field)
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        raise ApiError(400, f"{name} is {_found(value)}; {schema['description']}", field)
    if re.search("[\ud800-\udfff]", value):
        raise ApiError(400, f"{name} holds half a character (a lone surrogate).", field)


def _in_range(schema: dict[str, Any], value: float) -> bool:
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def _found(value: Any) -> str:
    """What came, in words: short, and so that the text "1" is told from the number."""
    if isinstance(value, (dict, list)):
        return TYPE_WORDS["object" if isinstance(value, dict) else "array"]
    if isinstance(value, float) and math.isinf(value):
        return "a number without end"  # of JSON's 1e999
    return f'"{shown(value)}"' if isinstance(value, str) else shown(json.dumps(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
