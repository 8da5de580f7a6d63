"""Which host gets a job, and whose job comes first."""

from __future__ import annotations

import json
from typing import Any

import kombu
import pytest
from caller import V3, Api, load, wave
from scenes import api_of, ask, finish, give_word, read_store, status, wait_for_hosts, wait_for_messages, wait_until

from api.pool import pack
from tools.pool_parts import LocalPool
from tools.simulated_host import HELD, MODELS

OTHER = "diffusion_models/other-flux.safetensors"
hosts, routing = pack.load("hosts"), pack.load("routing")


def capability(**more: Any) -> Any:
    return hosts.Capability(load("settings").Models(), **more)


def report(*files: str, **more: Any) -> Any:
    return hosts.HostReport("a", "ready", files or MODELS, 8.0, seen=100.0, **more)


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        ([], "its workers are not started"),
        ([report()], ""),
        ([report(*MODELS[1:])], "no host of this pool has redux-mini-flux.safetensors in models/diffusion_models"),
        ([report(*MODELS[:2]), report(*MODELS[2:])], "no host of this pool has all of its model files"),
    ],
)
def test_refusals(reports: list[Any], reason: str) -> None:
    found = hosts.refusal(capability(), reports, now=110.0)
    assert found == reason or (reason and found.endswith(reason))


def test_memory_is_a_capability() -> None:
    assert "10 GB of memory" in hosts.refusal(capability(memory_gb=10.0), [report()], now=110.0)
    assert capability(memory_gb=10.0).queue != capability().queue
    assert hosts.Capability.from_json(capability(memory_gb=10.0).to_json()) == capability(memory_gb=10.0)


def test_a_host_of_a_moment_ago_counts_and_one_of_long_ago_does_not() -> None:
    assert not hosts.refusal(capability(), [report()], now=100.0 + hosts.KNOWN_SECONDS - 1)
    assert hosts.refusal(capability(), [report()], now=100.0 + hosts.KNOWN_SECONDS + 1)


def test_keys_take_turns() -> None:
    """The more jobs of a key wait, the further behind its next one is; the first keys' are before all others'."""
    jobs = load("jobs")
    order = jobs.Order("", 16, 16, 1, 1, 1.0, 0)
    mine = [jobs.Job(f"{number:032x}", "wavespeed", order, {}, owner="me") for number in range(9)]
    one = jobs.Job("f" * 32, "wavespeed", order, {}, owner="you")
    levels = [routing.priority_of(job, mine[:number], ()) for number, job in enumerate(mine)]
    assert levels == [4, 3, 2, 2, 1, 1, 1, 1, 0]
    assert routing.priority_of(one, mine, ()) == 4
    assert min(routing.priority_of(job, mine, ("me",)) for job in mine) > 4
    assert max(routing.priority_of(job, [], ("me",)) for job in mine) < routing.AGED


def test_a_key_with_one_job_is_not_behind_one_with_many(pool: LocalPool) -> None:
    keys = {"REDUX_API_KEYS": "first-key,second-key,third-key", "REDUX_POOL_FIRST_KEYS": "third-key"}
    pool.add_host("a", 0.05)
    pool.add_gateway(environ=keys)
    url, names = pool.gateways["gateway"].url, ("first", "second", "third")
    many, one, first = (Api(url, {"Authorization": f"Bearer {name}-key"}) for name in names)
    wait_for_hosts(many)
    held = ask(many, prompt=HELD)  # so that all of them are there when the next one is chosen
    wait_until(lambda: status(many, held) == "processing")
    jobs = [held, *(ask(many, seed) for seed in range(2, 7))]
    late, first_of_all = ask(one, 50), ask(first, 51)
    wait_for_messages(pool, [*jobs, late, first_of_all])
    give_word(pool.hosts["a"])
    for api, job in ((one, late), (first, first_of_all), *((many, job) for job in jobs)):
        assert finish(api, job)["status"] == "completed"
    ids = [id for (id,) in read_store(pool, "SELECT id FROM redux_runs ORDER BY started")]
    assert ids.index(first_of_all["id"]) < ids.index(late["id"]) < ids.index(jobs[2]["id"])


def test_warm_hosts_first_and_models_that_nobody_has(pool: LocalPool) -> None:
    """Each of two hosts has the models of two gateways: a gateway's jobs go where its models are loaded already."""
    for name in ("a", "b"):
        pool.add_host(name, 0.05, "--models", *MODELS, OTHER)
    pool.add_gateway("plain")
    plain = api_of(pool, "plain")
    wait_for_hosts(plain)
    pool.settings["models"] = {"diffusion_model": OTHER.partition("/")[2]}
    pool.add_gateway("other")
    other = api_of(pool, "other")
    wait_for_hosts(other)
    # The first job holds its host, so the other gateway's goes to the other host: each has loaded one of the two.
    held = ask(plain, prompt=HELD)
    wait_until(lambda: status(plain, held) == "processing")
    finish(other, ask(other))
    for host in pool.hosts.values():
        give_word(host)
    finish(plain, held)
    warm = {name: _runs(pool, name)[-1] for name in ("a", "b")}
    assert len(set(warm.values())) == 2
    _wait_for_reports(pool, warm)
    _wait_for_reports(pool, warm)  # after the first one it has told the broker how gladly it takes from which queue
    before = {name: len(_runs(pool, name)) for name in warm}
    for _ in range(4):
        for api in (plain, other):
            finish(api, ask(api))
            _wait_for_reports(pool, warm)
    for name, queue in warm.items():
        assert _runs(pool, name)[before[name] :] == [queue] * 4, _runs(pool, name)
    pool.settings["models"] = {"vae": "nobody-has-it.safetensors"}
    pool.add_gateway("wishful")
    refused = api_of(pool, "wishful").post(V3, wave())
    assert refused.status == 503
    assert "no host of this pool has nobody-has-it.safetensors in models/vae" in refused.json["message"]


def _wait_for_reports(pool: LocalPool, warm: dict[str, str]) -> None:
    """Until each worker says anew that it has no job, which models are loaded, and so what it takes first.

    When it says so its message is acknowledged, and the broker holds it for free.
    """
    told = "SELECT name, seen, content FROM redux_hosts"
    ((before,),) = read_store(pool, "SELECT max(max(seen), (SELECT max(ended) FROM redux_runs)) FROM redux_hosts")

    def is_settled(name: str, seen: float, content: str) -> bool:
        report = json.loads(content)
        return seen > before and not report["job"] and report["warm"] == warm[name.removeprefix("worker-")]

    wait_until(lambda: all(is_settled(*row) for row in read_store(pool, told)))


def _runs(pool: LocalPool, name: str) -> list[str]:
    """The queues from which a worker has taken its jobs, one after the other."""
    rows = read_store(pool, "SELECT queue FROM redux_runs WHERE worker = ? ORDER BY started", f"worker-{name}")
    return [queue for (queue,) in rows]


def test_messages_hold_no_more_than_an_id_and_strangers_do_no_harm(pool: LocalPool) -> None:
    """Without a worker that takes it, a job's message can be read; what is no message of ours is thrown away."""
    pool.add_host("a")
    pool.add_gateway(environ={"REDUX_API_KEYS": "secret-key"})
    api = Api(pool.gateways["gateway"].url, {"Authorization": "Bearer secret-key"})
    wait_for_hosts(api)
    pool.workers["a"].stop()
    job = ask(api, 5, prompt="a secret prompt")
    with kombu.Connection(pool.broker.url) as connection:
        (queue,) = _queues(pool)
        bound = kombu.Queue(queue, channel=connection.channel())
        found: list[Any] = []
        wait_until(lambda: found.append(bound.get(accept=["json"])) or found[-1] is not None)
        message = found[-1]
        text = json.dumps([message.headers, message.properties]) + str(message.body)
        assert job["id"] in text and json.loads(message.body)[0] == [job["id"]]
        assert "secret" not in text and "inputs/" not in text
        message.requeue()
        producer = kombu.Producer(connection.channel(), kombu.Exchange("redux", type="direct"), queue)
        for body, kind in (
            (b"\x80\x04.", "application/x-python-serialize"),
            (b"{", "application/json"),
            (b"[]", "x/y"),
        ):
            producer.publish(body, content_type=kind, content_encoding="binary", headers=_headers("redux.run"))
        callback = {"callbacks": [{"task": "redux.run", "args": ["0" * 32]}]}
        for body in ([[]], [["0" * 32], {}], [["../../x"], {}, {}], [[{"a": 1}], {}, {}], [["0" * 32], {}, callback]):
            producer.publish(body, serializer="json", headers=_headers("redux.run"))
        producer.publish([["x"], {}, {}], serializer="json", headers=_headers("os.system"))
    pool.workers["a"].start()
    assert finish(api, job)["status"] == "completed"
    assert finish(api, ask(api, 6))["status"] == "completed"
    assert pool.workers["a"].alive


def _headers(task: str) -> dict[str, str]:
    return {"task": task, "id": "0" * 32, "lang": "py"}


def _queues(pool: LocalPool) -> list[str]:
    return [name for (name,) in read_store(pool, "SELECT name FROM redux_queues")]


@pytest.mark.parametrize(
    ("headers", "payload", "taken"),
    [
        ({}, [["a" * 32], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}], True),
        ({"eta": "2100-01-01T00:00:00"}, [["a" * 32], {}, {}], False),
        ({"timelimit": [None, 5]}, [["a" * 32], {}, {}], False),
        ({"id": "b" * 32}, [["a" * 32], {}, {}], False),
        ({}, [["a" * 32], {"queue": "x"}, {}], False),
        ({}, [["a" * 32], {}, {"callbacks": [{"task": "x"}]}], False),
        ({}, [["a" * 31], {}, {}], False),
        ({}, {"args": ["a" * 32]}, False),
    ],
)
def test_only_what_a_gateway_publishes_is_taken(headers: dict[str, Any], payload: Any, taken: bool) -> None:
    assert pack.load("messages").is_ours({"id": "a" * 32, **headers}, payload) is taken
