"""The pack's modules outside ComfyUI, under one package, as they are inside it."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

NAME = "redux_control"
MISSING = "The pool needs {} beside ComfyUI's own packages; install this pack's extra `pool`: pip install '.[pool]'."


def load(name: str) -> Any:
    """A module of api/pool, without the first files of its folders, which want ComfyUI and torch.

    Raises:
        SystemExit: a package is missing; one sentence.
    """
    root = Path(__file__).resolve().parents[2]
    for folder in ("", "redux", "nodes", "nodes/host"):
        package = ".".join([NAME, *folder.split("/")]).rstrip(".")
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [str(root / folder)]
    try:
        return importlib.import_module(f"{NAME}.api.pool.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(NAME):
            raise
        sys.exit(f"error: {MISSING.format(error.name)}")
