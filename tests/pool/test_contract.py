"""The contract of the endpoints, kept by a pool: the tests of tests/api, run once more against a gateway.

Whatever asks a server of nothing but its address is taken as it is. The pool has one host, which answers as ComfyUI
does and draws pictures of the right size at once, so that bad input, limits, streams, webhooks and the vendors' own
clients are what is tested here, and not the model.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

MODULES = (
    "test_refusals",
    "test_replicate",
    "test_wavespeed",
    "test_images",
    "test_files",
    "test_webhooks",
    "test_clients",
)
ELSEWHERE = {
    "test_paths_of_comfyui_are_its_own": "a gateway has no ComfyUI in it",
    "test_a_job_taken_out_by_somebody_else_fails": "it empties ComfyUI's own queue, which a gateway has not",
    "test_safety_leaves_out_what_is_flagged": "the simulated host has no classifier",
}
"""What is not asked of a gateway, and why."""

pytest.register_assert_rewrite(*MODULES)

from caller import Api  # noqa: E402
from scenes import wait_for_hosts  # noqa: E402

from tools import rabbitmq  # noqa: E402
from tools.pool_parts import LocalPool, Served  # noqa: E402


@pytest.fixture(scope="module")
def server(broker: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with the settings of the server of tests/api."""
    settings = {"max_body_mb": 4, "max_image_mb": 2, "max_megapixels": 4, "trusted_hosts": ["127.0.0.1"]}
    pool = LocalPool(tmp_path_factory.mktemp("pool"), broker, {**settings, "safety_threshold": 0.7})
    try:
        pool.add_host("a", 0.05, "--faithful", worker_environ={"REDUX_POOL_LEASE_SECONDS": "1.5"})
        gateway = pool.add_gateway()
        wait_for_hosts(Api(gateway.url))
        yield gateway
    finally:
        pool.stop()


@pytest.fixture
def api(server: Served) -> Api:
    return Api(server.url)


def taken(module: ModuleType) -> dict[str, Any]:
    """A module's fixtures, and its tests of a server at some address."""
    found = {}
    for name, item in vars(module).items():
        is_fixture = type(item).__name__ == "FixtureFunctionDefinition" and name not in ("server", "api")
        asks = name.startswith("test_") and "api" in inspect.signature(item).parameters and name not in ELSEWHERE
        if is_fixture or asks:
            found[name] = item
    return found


for _module in map(importlib.import_module, MODULES):
    for _name, _item in taken(_module).items():
        _own = _name if not _name.startswith("test_") else f"{_name}_{_module.__name__.removeprefix('test_')}"
        globals()[_own] = _item


def test_most_of_the_contract_is_here() -> None:
    """So that a change of how tests are found does not empty this file."""
    names = [name for name in globals() if name.startswith("test_")]
    assert len(names) >= 35
    asked = {name for module in MODULES for name in vars(importlib.import_module(module)) if name.startswith("test_")}
    assert set(ELSEWHERE) <= asked
