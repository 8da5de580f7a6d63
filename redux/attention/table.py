"""`choices.json`: times of the ways to compute, on some devices, which `benchmarks/attention_choices.py` writes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

TABLE = Path(__file__).with_name("choices.json")
AS_FAST = 1.02  # times another one's time


def device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return "sm{}{}".format(*torch.cuda.get_device_capability(device))


@cache
def rows() -> list[dict[str, Any]]:
    return json.loads(TABLE.read_text("utf-8"))["rows"] if TABLE.exists() else []


def nearest(device: torch.device, kernel: str, groups: int, keys: int) -> dict[str, float] | None:
    """The times of the nearest case of the table with no more groups than these; None where nothing is known."""
    name = device_name(device)
    fewer = [row for row in rows() if (row["device"], row["kernel"]) == (name, kernel) and row["groups"] <= groups]
    if groups < 2 or not fewer:
        return None
    most = max(row["groups"] for row in fewer)
    same = [row for row in fewer if row["groups"] == most]
    return min(same, key=lambda row: abs(row["keys"] - keys))["ms"]


def is_as_fast(device: torch.device, one: str, other: str) -> bool:
    """Whether a kernel merges as fast as another in every case of which both are listed, and there is one."""
    name = device_name(device)
    times: dict[tuple[int, int], dict[str, float]] = {}
    for row in rows():
        if row["device"] == name and row["kernel"] in (one, other):
            times.setdefault((row["groups"], row["keys"]), {})[row["kernel"]] = row["ms"]["merged"]
    pairs = [found for found in times.values() if len(found) == 2]
    return bool(pairs) and all(found[one] <= AS_FAST * found[other] for found in pairs)
