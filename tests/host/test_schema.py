"""What the page, the API and other tools learn of every node from its schema, its file and its help page."""

from __future__ import annotations

import ast
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "nodes" / "web" / "docs"

IDS = [
    "ReduxLoader",
    "ReduxEncode",
    "ReduxApply",
    "ReduxKeep",
    "ReduxWeighLatents",
    "ReduxInfluence",
    "ReduxRegions",
    "ReduxSweep",
    "ReduxSweepSheet",
    "ReduxPool",
    "ReduxMix",
    "ReduxSaveTokens",
    "ReduxLoadTokens",
    "ReduxSaveConditioning",
    "ReduxLoadConditioning",
    "ReduxFromClipVision",
    "ReduxMiniatureText",
    "ReduxSize",
    "ReduxSaveImage",
    "ReduxSafetyCheck",
    "ReduxLoadFlux",
    "ReduxCalibrate",
]

# What a short API call must name; everything else has a default.
REQUIRED = {
    "ReduxLoader": ["vision_name", "redux_name"],
    "ReduxEncode": ["redux", "image", "fit"],
    "ReduxApply": ["conditioning", "tokens", "strength"],
    "ReduxCalibrate": ["model", "clip", "vae", "redux"],
    "ReduxPool": ["tokens", "rows", "columns"],
    "ReduxMix": ["tokens", "method"],
    "ReduxSaveTokens": ["tokens", "filename_prefix"],
    "ReduxLoadTokens": ["file"],
    "ReduxSaveConditioning": ["conditioning", "filename_prefix"],
    "ReduxLoadConditioning": ["file"],
    "ReduxFromClipVision": ["style_model", "clip_vision_output"],
    "ReduxMiniatureText": ["words_name"],
    "ReduxRegions": ["layout"],
    "ReduxSweep": ["conditioning", "tokens", "latent", "values"],
    "ReduxSweepSheet": ["images"],
    "ReduxKeep": ["conditioning", "quality"],
    "ReduxWeighLatents": ["conditioning", "picture", "strength"],
    "ReduxLoadFlux": ["model_name", "text_name_1", "text_name_2", "vae_name"],
}

# Ids of other Redux packs: kaibioinfo, 1038lab, CY-CHENYUE, franky519, KJNodes, Acly, YarvixPA, yichengup, RES4LYF,
# Fluxtapoz, FluxMod, ostris, CRT, mo230761, ShmuelRonen.
TAKEN = {
    "AdvancedVisionLoader",
    "ApplyStyleModelAdjust",
    "ApplyStyleModelSimple",
    "CLIPVisionEncode",
    "CLIPVisionLoader",
    "ChromaStyleModelApply",
    "ClipVisionStyleLoader",
    "ETN_ApplyReferenceImages",
    "ETN_ReferenceImage",
    "ReReduxPatcher",
    "ReduxAdvanced",
    "ReduxFineTune",
    "ReduxFineTuneAdvanced",
    "ReduxProcess",
    "ReduxPromptStyler",
    "RegionalStyleModelApply",
    "SmartStyleModelApplyDual",
    "StyleModelAdvanced",
    "StyleModelAdvancedApply",
    "StyleModelApply",
    "StyleModelApplyAdvanced",
    "StyleModelApplySimple",
    "StyleModelApplyStyle",
    "StyleModelConditioner",
    "StyleModelGridVisualizer",
    "StyleModelLoader",
    "YC_LG_Redux",
}


@pytest.fixture(scope="module", params=IDS)
def node(request: pytest.FixtureRequest, redux_nodes: dict[str, Any]) -> Any:
    return redux_nodes[request.param]


@pytest.fixture(scope="module")
def schema(node: Any) -> Any:
    return node.GET_SCHEMA()


def flatten(inputs: list[Any]) -> list[Any]:
    """Inputs with those that a choice of a dynamic input brings along."""
    found = []
    for item in inputs:
        found.append(item)
        for option in getattr(item, "options", None) or []:
            found += flatten(getattr(option, "inputs", []))
        template = getattr(getattr(item, "template", None), "input", None)
        found += [template] if template is not None else []
    return found


def test_these_are_the_nodes(redux_nodes: dict[str, Any]) -> None:
    assert list(redux_nodes) == IDS


def test_ids_are_ours(redux_nodes: dict[str, Any], comfy: Any) -> None:
    assert not set(IDS) & TAKEN
    core = {name for name, cls in comfy.nodes.NODE_CLASS_MAPPINGS.items() if cls not in redux_nodes.values()}
    assert not set(IDS) & core and len(core) > 50
    for path in (comfy.path / "comfy_extras").glob("nodes_*.py"):
        text = path.read_text("utf-8")
        assert not [name for name in IDS if f'"{name}"' in text], path.name


def test_the_id_can_be_read_without_running(node: Any, schema: Any) -> None:
    """Scanners of registries read it from the file: a literal, in a class that derives from io.ComfyNode directly."""
    assert node.__mro__[1].__name__ == "ComfyNode" or any(b.__name__ == "ComfyNode" for b in node.__bases__)
    source = Path(inspect.getfile(node))
    classes = [item for item in ast.parse(source.read_text("utf-8")).body if isinstance(item, ast.ClassDef)]
    (found,) = [item for item in classes if item.name == schema.node_id]
    assert [ast.unparse(base) for base in found.bases] == ["io.ComfyNode"]
    literals = [
        keyword.value.value
        for call in ast.walk(found)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant)
    ]
    assert literals == [schema.node_id]


def test_words_for_people(schema: Any) -> None:
    assert schema.category == "redux"
    assert schema.display_name and schema.display_name != schema.node_id
    assert 40 < len(schema.description) < 400 and schema.description.endswith(".")
    assert schema.search_aliases and all(alias == alias.lower() for alias in schema.search_aliases)
    assert not schema.is_experimental and not schema.is_deprecated


def test_every_input_is_explained(schema: Any) -> None:
    for item in flatten(schema.inputs):
        assert item.tooltip and item.tooltip.endswith("."), item.id
        assert len(item.tooltip) < 300, item.id


def test_lazy_inputs_are_asked_for(node: Any, schema: Any) -> None:
    """ComfyUI runs what is behind a lazy input only when the node's check_lazy_status asks for it."""
    lazy = [item.id for item in schema.inputs if getattr(item, "lazy", None)]
    assert not lazy or set(lazy) == set(node.check_lazy_status(**dict.fromkeys(lazy)))


def test_every_output_is_explained(schema: Any) -> None:
    for item in schema.outputs:
        assert item.tooltip and item.tooltip.endswith("."), item.id
        if item.io_type.startswith("REDUX"):
            assert item.display_name
    assert schema.outputs or schema.is_output_node


def test_numbers_have_ranges_and_defaults(schema: Any) -> None:
    for item in flatten(schema.inputs):
        if item.io_type in ("INT", "FLOAT"):
            assert item.min is not None and item.max is not None and item.min <= item.default <= item.max, item.id
        if item.io_type == "FLOAT":
            assert item.step, item.id
        if item.io_type == "COMBO" and item.default is not None:
            assert item.default in item.options, item.id


def test_sliders_keep_three_digits(schema: Any) -> None:
    """ComfyUI's page cuts a number that is typed to the digits of its step, whatever `round` says."""
    for item in flatten(schema.inputs):
        if getattr(item, "display_mode", None) is not None:
            digits = max(0, -math.floor(math.log10(item.step)))
            assert digits >= 3 and item.round == 0.001, item.id


# What an input that an older graph does not name means, where new nodes begin with another value.
OLDER = {("ReduxApply", "response"): "weight"}


def test_execute_takes_the_inputs_in_order(node: Any, schema: Any) -> None:
    parameters = inspect.signature(node.execute).parameters
    assert [item.id for item in schema.inputs] == list(parameters)
    for item in schema.inputs:
        default = parameters[item.id].default
        assert default is not inspect.Parameter.empty or not item.optional, item.id
        if default not in (inspect.Parameter.empty, None):
            assert default == OLDER.get((schema.node_id, item.id), item.default), item.id


def test_only_what_matters_is_required(schema: Any) -> None:
    required = [item.id for item in schema.inputs if not item.optional]
    assert required == REQUIRED.get(schema.node_id, required)
    for item in schema.inputs:
        assert not (item.advanced and not item.optional), item.id


def test_help_page(schema: Any) -> None:
    page = DOCS / f"{schema.node_id}.md"
    text = page.read_text("utf-8")
    assert text.startswith(f"# {schema.display_name}\n")
    named = set(re.findall(r"\*\*([^*]+)\*\*", text))
    for item in flatten(schema.inputs):
        names = {item.id, item.display_name or item.id}
        if item.id == "reference":  # the sockets that grow are reference_0, reference_1, ...
            continue
        assert names & named, f"{item.id} is not in {page.name}"
    assert "TODO" not in text and max(map(len, text.splitlines())) <= 200


def test_what_the_graph_looks_for(pack: Any, redux_nodes: dict[str, Any]) -> None:
    from redux_control.nodes.host import prompt_graph

    assert prompt_graph.INFLUENCE in redux_nodes


def test_no_help_page_without_a_node(redux_nodes: dict[str, Any]) -> None:
    assert sorted(path.stem for path in DOCS.glob("*.md")) == sorted(redux_nodes)


def test_entry_point(pack: Any) -> None:
    assert pack.__all__ == ["WEB_DIRECTORY", "comfy_entrypoint"]
    assert inspect.iscoroutinefunction(pack.comfy_entrypoint)
    assert (ROOT / pack.WEB_DIRECTORY / "docs").is_dir()
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS"), "it would win over comfy_entrypoint"


def test_old_clients_get_the_same(node: Any, schema: Any) -> None:
    """/object_info builds what it sends from this."""
    info = node.GET_NODE_INFO_V1()
    assert info["name"] == schema.node_id and info["display_name"] == schema.display_name
    assert len(info["output_tooltips"]) == len(schema.outputs)
