"""Files of presets: what is written is read, and what is wrong is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redux.presets import Presets, rules_of
from redux.schedule import BlockWeights, ModelName

MODEL = ModelName("flux-tiny", "0123456789abcdef", 2, 3, 4)
factors = st.sampled_from([0.0, 0.25, 1.0, 2.0])
tables = st.fixed_dictionaries(
    {
        kind: st.lists(st.lists(factors, min_size=4, max_size=4), min_size=count, max_size=count)
        for kind, count in (("double", 2), ("single", 3))
    }
)


def write(path: Path, **changes: Any) -> Path:
    table = {"double": [[1.0] * 4] * 2, "single": [[0.5] * 4] * 3}
    model = {"name": "flux-tiny", "digest": "0123456789abcdef", "double": 2, "single": 3, "heads": 4}
    facts = {"redux": "presets", "version": 1, "model": model, "presets": {"style": table}, "measured": {}}
    path.write_text(json.dumps(facts | changes), "ascii")
    return path


@given(tables)
def test_rules_mean_the_table(table: dict[str, list[list[float]]]) -> None:
    weights = BlockWeights(rules_of(table))
    for kind, rows in table.items():
        for index, row in enumerate(rows):
            found = weights.factor(kind, index, 4)
            assert (found if isinstance(found, tuple) else (found,) * 4) == tuple(row)


def test_a_file_comes_back_whole_and_is_never_overwritten(tmp_path: Path) -> None:
    table = {"double": [[0.0, 1.0, 1.0, 2.0], [1.0] * 4], "single": [[0.125] * 4] * 3}
    presets = Presets(MODEL, {"style": table, "subject": table}, {"pictures": 9})
    presets.save(tmp_path / "new" / "a.json")
    again = Presets.load(tmp_path / "new" / "a.json")
    assert again == presets
    assert again.block_weights("subject").made_for == MODEL
    assert again.block_weights("subject").factor("double", 0, 4) == (0, 1, 1, 2)
    with pytest.raises(FileExistsError):
        presets.save(tmp_path / "new" / "a.json")


def test_an_unknown_preset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no preset 'mood'; style are there"):
        Presets.load(write(tmp_path / "a.json")).block_weights("mood")


def table_with(kind: str, index: int, row: Any) -> dict[str, Any]:
    table: dict[str, Any] = {"double": [[1.0] * 4 for _ in range(2)], "single": [[1.0] * 4 for _ in range(3)]}
    table[kind][index] = row
    return {"style": table}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presets": table_with("double", 1, [1, 1, -0.5, 1])}, "the weight -0.5 for head 2 of double block 1"),
        ({"presets": table_with("single", 2, [1, float("nan"), 1, 1])}, "the weight nan for head 1 of single block 2"),
        ({"presets": table_with("single", 0, [float("inf"), 1, 1, 1])}, "the weight inf for head 0 of single block 0"),
        ({"presets": table_with("single", 0, [1, 1, "a", 1])}, "the weight a for head 2 of single block 0"),
        ({"presets": table_with("single", 0, [1] * 5)}, "has 5 heads in single block 0; its model has 4"),
        ({"presets": table_with("single", 0, 1.0)}, "has float heads in single block 0; its model has 4"),
        ({"presets": {"style": {"double": [], "single": []}}}, "weights for 0 double blocks; its model has 2"),
        ({"presets": {"style": {"double": [], "triple": []}}}, "weights for 'double, triple'; double and single"),
        ({"presets": {"style": [1]}}, "weights for '1'; double and single"),
        ({"presets": None}, "is damaged .*; run Calibrate Redux again"),
        ({"model": {"name": "a"}}, "is damaged .*; run Calibrate Redux again"),
        ({"version": 7}, "is of version 7 and this pack reads version 1"),
        ({"redux": "tokens"}, "holds no presets; a file of Calibrate Redux is needed"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Presets.load(write(tmp_path / "a.json", **changes))
    assert "a.json" in str(error.value) and str(error.value).endswith(".") and "\n" not in str(error.value)


def test_what_is_no_file_of_presets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="b.json is not JSON"):
        Presets.load(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("[1]", "ascii")
    with pytest.raises(ValueError, match="c.json holds no presets"):
        Presets.load(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError, match="There is no file .*d.json; a file of Calibrate Redux is needed"):
        Presets.load(tmp_path / "d.json")
