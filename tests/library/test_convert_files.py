"""The converter of graphs in API form, and as a command on files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page_graphs import (
    APPLY_DEFAULTS,
    ENCODE_DEFAULTS,
    LOADED,
    STYLE,
    VISION,
)

from convert import ConvertError, convert

ROOT = Path(__file__).resolve().parents[2]


def api_graph() -> dict[str, Any]:
    return {
        "1": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": VISION}},
        "2": {"class_type": "StyleModelLoader", "inputs": {"style_model_name": STYLE}},
        "3": {"class_type": "CLIPVisionEncode", "inputs": {"clip_vision": ["1", 0], "image": ["9", 0], "crop": "none"}},
        "4": {"class_type": "StyleModelApply", "inputs": {"conditioning": ["8", 0], "style_model": ["2", 0],
              "clip_vision_output": ["3", 0], "strength": 0.5, "strength_type": "attn_bias"}},
        "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["7", 0]}},
        "9": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
    }  # fmt: skip


def test_api_form() -> None:
    before = api_graph()
    result = convert(before)
    assert before == api_graph() and not result.notes
    after = result.workflow
    assert set(after) == {"1", "3", "4", "8", "9"}
    assert after["1"] == {"class_type": "ReduxLoader", "inputs": LOADED[2]}
    assert after["3"]["inputs"] == {"redux": ["1", 0], "image": ["9", 0], "fit": "stretch", **ENCODE_DEFAULTS}
    expected = {"conditioning": ["8", 0], "tokens": ["3", 0], "strength": 0.5, "normalize": True, **APPLY_DEFAULTS}
    assert after["4"]["inputs"] == expected


WRONG = {
    "no JSON": ("{", "is no JSON"),
    "a list": ("[]", "This is no workflow of ComfyUI"),
    "another object": ('{"a": 1}', "This is no workflow of ComfyUI"),
    "empty": ("{}", "This is no workflow of ComfyUI"),
    "nothing in it": ('{"1": {"class_type": "LoadImage", "inputs": {}}}', "There is nothing to convert"),
    "too deep": ("[" * 5000, "is no JSON"),
    "damaged": ('{"nodes": [{"id": 1, "type": "StyleModelApply", "inputs": 3}], "links": [[1]]}', "is damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    text, words = WRONG[name]
    path = tmp_path / "workflow.json"
    path.write_text(text)
    done = command(str(path))
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["workflow.json"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "tools.convert", *arguments]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(api_graph()))
    for expected in ("mine-redux.json", "mine-redux-2.json"):
        done = command(str(path))
        assert done.returncode == 0 and expected in done.stdout and "Everything was carried over." in done.stdout
        assert "ReduxApply" in (tmp_path / expected).read_text()
    assert json.loads(path.read_text()) == api_graph()
    done = command(str(path), "-o", str(path))
    assert done.returncode == 1 and "nothing is overwritten" in done.stderr
    assert json.loads(path.read_text()) == api_graph()
    missing = command(str(tmp_path / "none.json"))
    assert missing.returncode == 1 and "cannot be read" in missing.stderr


def test_a_published_pack_has_the_converter() -> None:
    """`tools` is left out of the archive; `convert` is not, and needs no other folder of the pack."""
    ignored = (ROOT / ".comfyignore").read_text().split()
    assert "/tools/" in ignored and "/convert/" not in ignored
    script = "import convert, sys; print([n for n in sys.modules if n.split('.')[0] in ('torch', 'redux', 'tools')])"
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_damaged_is_an_error_of_its_own() -> None:
    with pytest.raises(ConvertError, match="damaged"):
        convert({"nodes": [{"id": 1, "type": "StyleModelApply"}], "links": [[1, 2]]})
