"""What `make demo` does to workflows, and the sheet of its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tools import workflow
from tools.errors import ToolError
from tools.sheet import Cell, Row, contact_sheet


class TestWorkflow:
    graph: workflow.Workflow = {
        "1": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "a", "clip_name2": "b", "type": "flux"}},
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
        "3": {"class_type": "EmptySD3LatentImage", "inputs": {"width": ["9", 0], "height": 1024, "batch_size": 1}},
    }

    def test_the_original_stays(self) -> None:
        before = json.dumps(self.graph)
        names = dict.fromkeys(("clip_vision", "style_models", "diffusion_models", "vae"), "x") | {"text_encoders": "w"}
        changed = workflow.shrink(workflow.set_seed(workflow.use_models(self.graph, names), 7), 128, 2)
        assert json.dumps(self.graph) == before
        assert changed["1"] == {"class_type": "ReduxMiniatureText", "inputs": {"words_name": "w"}}
        assert changed["2"]["inputs"] == {"noise_seed": 7}
        assert changed["3"]["inputs"] == {"width": ["9", 0], "height": 128, "batch_size": 1}

    @pytest.mark.parametrize("spec", [[["a", "c"]], ["COMBO", {"options": ["a", "c"]}]], ids=["old", "new"])
    def test_values_that_a_server_does_not_offer(self, spec: list[object]) -> None:
        info = {"DualCLIPLoader": {"input": {"required": {"clip_name1": spec, "clip_name2": spec}}}}
        assert list(workflow.missing_choices(self.graph, info)) == [("DualCLIPLoader", "clip_name2", "b")]

    def test_what_is_no_workflow(self, tmp_path: Path) -> None:
        path = tmp_path / "ui.json"
        path.write_text('{"nodes": [], "links": []}')
        with pytest.raises(ToolError, match="no workflow in API format"):
            workflow.read(path)
        path.write_text("{")
        with pytest.raises(ToolError, match="is no JSON"):
            workflow.read(path)
        with pytest.raises(ToolError, match="cannot be read: No such file"):
            workflow.read(tmp_path / "none.json")


def test_contact_sheet_shows_every_picture() -> None:
    colours = [(200, 30, 30), (30, 160, 30), (30, 30, 200)]
    cells = [
        Cell(Image.new("RGB", size, colour)) for size, colour in zip([(8, 8), (64, 16), (16, 64)], colours, strict=True)
    ]
    sheet = contact_sheet([Row("a long caption that needs several lines", cells), Row("", cells[:1])], "Title", "note")
    counts = {colour: count for count, colour in sheet.getcolors(1 << 20)}
    assert counts[colours[0]] == 2 * 224 * 224
    assert counts[colours[1]] == counts[colours[2]] == 224 * 56
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], "Title")
