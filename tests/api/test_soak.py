"""The soak in its short form: each misfortune once, and every accepted job comes to one good end."""

from __future__ import annotations

from pathlib import Path

from tools.soak import Soak
from tools.soak_faults import FAULTS


def test_each_misfortune_once(tmp_path: Path) -> None:
    once = [name for name in FAULTS if name != "stopped and started"]  # test_restart.py stops and starts
    soak = Soak(tmp_path, minutes=0.3, misfortunes=once, quiet_jobs=20)
    problems = soak.run()
    assert not problems, f"{problems}\n{soak.table()}"
    assert set(soak.faults) == set(once) and len(soak.lives) == 2
    assert len(soak.callers.completed) > 5, soak.table()
