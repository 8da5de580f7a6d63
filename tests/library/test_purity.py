"""The library stands alone: no ComfyUI, no server, no transformers, no diffusers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ALLOWED = {"torch", "triton", "safetensors", "numpy", "PIL", "einops"}
FORBIDDEN = ["comfy", "comfy_api", "folder_paths", "nodes", "server", "aiohttp", "transformers", "diffusers"]


def imported(source: str) -> set[str]:
    """Top-level names of absolute imports, wherever they stand in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imports(root: Path) -> None:
    files = sorted((root / "redux").rglob("*.py"))
    assert len(files) > 10
    for file in files:
        foreign = imported(file.read_text(encoding="utf-8")) - ALLOWED - set(sys.stdlib_module_names) - {"__future__"}
        assert not foreign, f"{file.name} imports {foreign}"


def test_relative_imports_stay_inside(root: Path) -> None:
    for file in (root / "redux").rglob("*.py"):
        depth = len(file.relative_to(root / "redux").parts)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth, f"{file.name} imports from above redux/"


def test_it_works_where_nothing_else_is_installed(root: Path, files: tuple[Path, Path]) -> None:
    """In a process where importing the others fails, tokens come out all the same."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({FORBIDDEN!r}))
import torch, redux
model = redux.ReduxModel.load(sys.argv[1], sys.argv[2], dtype=torch.float32)
tokens = model.encode(torch.rand(1, 40, 50, 3), fit="tiles")
print(tuple(tokens.tokens.shape), bool(tokens.tokens.isfinite().all()))
print(sorted(name for name in {FORBIDDEN!r} if sys.modules[name] is not None))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["(1, 320, 128) True", "[]"]
