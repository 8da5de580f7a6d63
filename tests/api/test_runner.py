"""The runner over a backend that does as it is told: errors of the store, lost events, restarts, retention."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from caller import ROOT, load
from scripted import Scripted

runners, stores, jobs, backends = load("runner"), load("job_store"), load("jobs"), load("backend")
Settings, errors = load("settings").Settings, load("errors")
ORDER = jobs.Order("x.png", 16, 16, 1, 1, 1.0, 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(load("supervise"), "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(runners, "on_deliberate_stop", lambda callback: None)


def with_runner(folder: Path, test: Callable[[Any, Any], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def run() -> None:
        backend = Scripted(folder)
        runner = runners.Runner(Settings(**settings), backend, lambda: stores.JobStore(folder / "jobs.sqlite"))
        await runner.start()
        try:
            await test(runner, backend)
        finally:
            await runner.stop()

    asyncio.run(run())


async def until(holds: Callable[[], Any]) -> None:
    """Wait for what the runner does in its next look or two, at least for a minute."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def submit(runner: Any) -> Any:
    return await runner.submit(uuid.uuid4(), "wavespeed", ORDER, {})


def full(runner: Any, is_full: bool = True) -> None:
    """Every write fails as on a full disk, or no longer; the error is SQLite's own."""
    database = runner.store.database
    if is_full:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    else:
        database.execute("DROP TRIGGER full")


def test_an_interrupt_that_is_lost_is_sent_again(tmp_path: Path) -> None:
    """ComfyUI clears its interrupt when it begins a prompt, also one that came just before."""

    async def test(runner: Any, backend: Any) -> None:
        job = await submit(runner)
        backend.states[job.id], backend.deaf = backends.RUNNING, 3
        await runner.cancel(job)
        assert (await runner.wait(job, 60)).status == "canceled"
        assert backend.deaf == 0

    with_runner(tmp_path, test)


def test_a_full_disk_ends_no_task_and_the_state_heals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(runner: Any, backend: Any) -> None:
        first, second, third = [await submit(runner) for _ in range(3)]
        full(runner)
        backend.states[first.id] = backends.Finished(outputs=("a.png",))
        backend.states[second.id] = backends.RUNNING
        with pytest.raises(errors.ApiError) as refused:
            await runner.cancel(third)
        assert refused.value.status == 503
        with pytest.raises(errors.ApiError):
            await submit(runner)
        assert len(backend.states) == 2  # what was refused is not in the queue
        looks = backend.polls
        await until(lambda: backend.polls > looks + 3)
        assert len([record for record in caplog.records if "disk is full" in record.message]) == 1
        full(runner, False)
        assert (await runner.wait(first, 60)).status == "completed"
        assert (await runner.wait(third, 60)).status == "canceled"
        await until(lambda: runner.store.get(second.id).status == "processing")
        await until(lambda: "is well again" in caplog.text)

    with_runner(tmp_path, test)


def test_the_backend_is_asked_without_any_event(tmp_path: Path) -> None:
    async def test(runner: Any, backend: Any) -> None:
        job = await submit(runner)
        began = time.time() - 1
        backend.states[job.id] = backends.Finished(outputs=("a.png",), started=began)
        done = await runner.wait(job, 60)
        assert done.status == "completed" and 1 <= done.inference_seconds + 1e-3 <= time.time() - began + 2e-3

    with_runner(tmp_path, test)


def test_a_fault_of_ours_is_logged_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(runner: Any, backend: Any) -> None:
        job = await submit(runner)
        backend.trouble.append(ZeroDivisionError("surprise"))
        looks = backend.polls
        await until(lambda: backend.polls > looks + 3)
        (record,) = [record for record in caplog.records if "surprise" in record.message]
        assert record.exc_info  # a fault, so where it is
        backend.trouble.clear()
        backend.states[job.id] = backends.Finished(error="No space left on device")
        assert (await runner.wait(job, 60)).error == "No space left on device"

    with_runner(tmp_path, test)


def test_a_step_that_swallows_its_cancelling_is_ended_all_the_same() -> None:
    async def step() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not swallowed:
                swallowed.append(True)
                return
            raise

    async def test() -> None:
        supervisor = load("supervise").Supervisor()
        supervisor.repeat("the step", step, 60)
        await asyncio.sleep(0.01)
        await asyncio.wait_for(supervisor.stop(), 60)

    swallowed: list[bool] = []
    asyncio.run(test())
    assert swallowed


def test_a_reference_that_cannot_be_removed_is_removed_later(tmp_path: Path) -> None:
    async def test(runner: Any, backend: Any) -> None:
        job = await submit(runner)
        backend.stuck.add("all")
        backend.states[job.id] = backends.Finished(outputs=("a.png",))
        assert (await runner.wait(job, 60)).status == "completed"
        await asyncio.sleep(0.1)
        assert not backend.dropped
        backend.stuck.clear()
        await until(lambda: backend.dropped == [ORDER.reference])

    with_runner(tmp_path, test)


def test_what_left_the_queue_is_failed(tmp_path: Path) -> None:
    async def test(runner: Any, backend: Any) -> None:
        job = await submit(runner)
        backend.states.clear()
        done = await runner.wait(job, 60)
        assert done.status == "failed" and "taken out" in done.error

    with_runner(tmp_path, test)


def test_a_store_that_opens_late(tmp_path: Path) -> None:
    """Another server, or a full disk, at the start: 503 until it is over, and the jobs are taken up then."""
    other = stores.JobStore(tmp_path / "jobs.sqlite")
    waiting = other.put(jobs.Job("0" * 32, "wavespeed", ORDER, {}))

    async def test(runner: Any, backend: Any) -> None:
        with pytest.raises(errors.ApiError) as refused:
            await submit(runner)
        sentence = "This server's job store cannot be used now (another server uses jobs.sqlite); try again later."
        assert (refused.value.status, str(refused.value)) == (503, sentence)
        other.close()
        await until(lambda: backend.states == {waiting.id: backends.QUEUED})

    with_runner(tmp_path, test)


def restart(folder: Path, state: Any, deliberate: bool) -> dict[str, Any]:
    """One server's life: its jobs come to a state, and it is killed or stopped. What is in the store then."""
    left: dict[str, Any] = {}

    async def run() -> None:
        backend = Scripted(folder)
        runner = runners.Runner(Settings(), backend, lambda: stores.JobStore(folder / "jobs.sqlite"))
        await runner.start()
        if not runner.store._jobs("1"):
            await submit(runner)
        backend.states = dict.fromkeys(backend.states, state)
        polls, told = backend.polls, jobs.PROCESSING if state == backends.RUNNING else jobs.CREATED
        await until(lambda: not runner.store.live or backend.polls > polls + 2)
        await until(lambda: all(job.status == told for job in runner.store.live.values()))
        left.update({job.id: job for job in runner.store._jobs("1")})
        if deliberate:
            await runner.stop()
        else:
            await runner.supervisor.stop()
            runner.store.close()

    asyncio.run(run())
    return left


@pytest.mark.parametrize(
    ("state", "deliberate", "status"),
    [("queued", False, "created"), ("running", True, "processing"), ("running", False, "failed")],
)
def test_attempts_are_counted_when_a_job_runs(tmp_path: Path, state: str, deliberate: bool, status: str) -> None:
    """Waiting through restarts, and running at deliberate stops, costs nothing; to run at each end does."""
    for _ in range(4):
        left = restart(tmp_path, state, deliberate)
    (job,) = left.values()
    assert job.status == status
    assert status != "failed" or "ended each time" in job.error


def test_a_job_that_cannot_be_resumed_keeps_back_no_other(tmp_path: Path) -> None:
    store = stores.JobStore(tmp_path / "jobs.sqlite")
    bad, stuck, good = [store.put(jobs.Job(letter * 32, "wavespeed", ORDER, {})) for letter in "abc"]
    store.close()

    async def run() -> None:
        backend = Scripted(tmp_path)
        backend.refused.add(bad.id)
        backend.stuck.add(stuck.id)
        runner = runners.Runner(Settings(), backend, lambda: stores.JobStore(tmp_path / "jobs.sqlite"))
        await runner.start()
        assert "No model" in runner.store.get(bad.id).error and backend.states == {good.id: backends.QUEUED}
        backend.states[good.id] = backends.Finished(outputs=("a.png",))
        assert (await runner.wait(good, 60)).status == "completed"  # while the other still cannot be queued
        backend.stuck.clear()
        await until(lambda: backend.states.get(stuck.id) == backends.QUEUED)
        await runner.stop()

    asyncio.run(run())


@pytest.mark.parametrize(("number", "said"), [("SIGTERM", b"stopped"), ("SIGINT", b"stopped"), ("SIGKILL", b"")])
def test_a_stop_is_told_from_a_death(number: str, said: bytes) -> None:
    code = f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom caller import load\n"
    code += "load('supervise').on_deliberate_stop(lambda: print('stopped', flush=True))\n"
    code += "print('ready', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout and child.stdout.readline() == b"ready\n"
    child.send_signal(getattr(signal, number))
    assert child.communicate()[0].strip() == said
    assert child.returncode in (-getattr(signal, number), 1)  # it ends as it would have ended


def test_retention_goes_past_what_cannot_be_removed(tmp_path: Path) -> None:
    async def test(runner: Any, backend: Any) -> None:
        old = time.time() - 7200
        for letter in "abc":
            job = jobs.Job(letter * 32, "wavespeed", ORDER, {}, created=old)
            runner.store.put(job)
            runner.store.update(job, status="completed", finished=old, outputs=(f"{letter}.png",))
            (tmp_path / f"{letter}.png").write_bytes(b"x")
        (tmp_path / "a.png").unlink()
        (tmp_path / "a.png").mkdir()  # no unlink removes a folder
        with pytest.raises(OSError):
            await runner.sweep()
        assert [job.id[0] for job in runner.store.old(time.time())] == ["a"]  # known as long as its file is there
        assert not (tmp_path / "b.png").exists() and not (tmp_path / "c.png").exists()
        (tmp_path / "a.png").rmdir()
        await runner.sweep()
        assert not runner.store.old(time.time())

    with_runner(tmp_path, test, keep_hours=1.0)
