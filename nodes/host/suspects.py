"""Which packs have a hand in a model call, to be named where something did not act."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import comfy.patcher_extension

HOST = re.compile(r"^(comfy|comfy_extras|comfy_api|torch|nodes|functools)\b")
OWN = __name__.split(".nodes.")[0]


def suspects(model: Any, options: dict[str, Any]) -> tuple[str, ...]:
    """Packs that replace a part of this model or wrap its calls, by their folders.

    Args:
        model: the diffusion model.
        options: the transformer options of the call.
    """
    modules = (module for module in _modules(model, options) if not HOST.match(module) and module.split(".")[0] != OWN)
    return tuple(dict.fromkeys(map(_pack, modules)))


def _modules(model: Any, options: dict[str, Any]) -> Iterator[str]:
    yield type(model).__module__
    for name in ("forward", "_forward", "forward_orig"):
        yield _module_of(getattr(model, name, None))
    for blocks in (getattr(model, "double_blocks", ()), getattr(model, "single_blocks", ())):
        for block in blocks:
            yield type(block).__module__
            yield _module_of(block.forward)
    for patch in options.get("patches_replace", {}).get("dit", {}).values():
        yield _module_of(patch)
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    for wrappers in options.get("wrappers", {}).get(kind, {}).values():
        yield from map(_module_of, wrappers)


def module_of(function: Any) -> str:
    """The pack, or the module of the host, that a function is from."""
    module = _module_of(function)
    return module if HOST.match(module) else _pack(module)


def _module_of(function: Any) -> str:
    return getattr(function, "__module__", None) or type(function).__module__


def _pack(module: str) -> str:
    """The folder of a custom node, whose modules ComfyUI names by their paths; else the first name."""
    _, found, path = module.replace("\\", "/").rpartition("custom_nodes/")
    return re.split(r"[./]", path)[0] if found else module.split(".")[0]
