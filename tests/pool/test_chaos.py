"""The pool under kill -9, in short; `python -m tools.pool_chaos` is the same for ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import rabbitmq
from tools.pool_chaos import Chaos


def test_none_lost_none_answered_twice_none_for_ever(tmp_path: Path) -> None:
    if rabbitmq.find_program() is None:
        pytest.skip(rabbitmq.MISSING)
    chaos = Chaos(tmp_path, minutes=0.5, jobs=40, seconds=0.4)
    verdict = chaos.run()
    print(chaos.table(verdict))
    assert not verdict.problems()
    assert verdict.equal == len(chaos.asked) == 40
    assert {"broker", "gateway", "host a", "host b", "worker a", "worker b"} <= set(chaos.kills)
