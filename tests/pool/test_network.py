"""Slow, cut and half-open connections between gateway, broker, worker and host: each job ends in the right state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from scenes import api_of, ask, expected, finish, wait_for_hosts

from tools.pool_parts import LocalPool, simulated_host
from tools.proxy import CUT, HALF_OPEN, SLOW, Proxy

FAULT_SECONDS = 3.0
PATIENT = {"REDUX_POOL_MAX_DEATHS": "1000"}


@dataclass
class Net:
    """A pool whose connections lead through proxies."""

    pool: LocalPool
    links: dict[str, Proxy]


@pytest.fixture(scope="module")
def net(module_pool: LocalPool) -> Iterator[Net]:
    pool = module_pool
    with ExitStack() as stack:
        links = {name: stack.enter_context(Proxy(pool.broker.port)) for name in ("gateway-broker", "worker-broker")}
        host = pool.hosts["a"] = simulated_host(pool.folder, "host", 0.3)
        links["worker-host"] = stack.enter_context(Proxy(host.port))
        host.start()

        def through(name: str) -> dict[str, str]:
            address = pool.broker.address.replace(str(pool.broker.port), str(links[name].port))
            return {**PATIENT, "REDUX_POOL_BROKER": address}

        pool.add_worker("a", f"http://127.0.0.1:{links['worker-host'].port}", through("worker-broker"))
        pool.add_gateway(environ=through("gateway-broker"))
        wait_for_hosts(api_of(pool))
        yield Net(pool, links)


@pytest.mark.parametrize("fault", [SLOW, CUT, HALF_OPEN])
@pytest.mark.parametrize("link", ["gateway-broker", "worker-broker", "worker-host"])
def test_a_bad_link(net: Net, link: str, fault: str) -> None:
    """A job that is under way when the link goes bad, and one that comes meanwhile, are both done when it is well."""
    api, seed = api_of(net.pool), 1 + 2 * len(link + fault)
    before = ask(api, seed)
    time.sleep(0.1)
    net.links[link].fault(fault)
    try:
        meanwhile = ask(api, seed + 1)
        time.sleep(FAULT_SECONDS)
    finally:
        net.links[link].heal()
    for number, job in enumerate((before, meanwhile)):
        done = finish(api, job)
        assert done["status"] == "completed", done
        assert api.get(done["outputs"][0]).body == expected(seed + number)
