"""kill -9 of each process of a real service in turn: what the log says, and that the next monitor is served."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import Caller, Running, children

WORKER = "virtiofs-worker"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def run(tmp_path: Path, path: Path) -> Iterator[Running]:
    with Running("real", tmp_path, "--socket", os.fspath(path)) as running:
        yield running.ready()


@pytest.fixture
def holder(run: Running, path: Path) -> Iterator[Caller]:
    caller = run.connect(path)
    assert caller.served()
    yield caller
    caller.close()


def the_one(pids: list[int]) -> int:
    (pid,) = pids
    return pid


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (2, "worker killed by signal 9 (SIGKILL)"),
        (1, "worker ended: killed by signal 9 (SIGKILL)"),
    ],
    ids=["worker", "keeper"],
)
def test_the_connection_ends_with_a_reason_and_the_next_monitor_is_served(
    run: Running, path: Path, holder: Caller, depth: int, words: str
) -> None:
    os.kill(the_one(run.of(depth, WORKER)), signal.SIGKILL)
    assert holder.closed()
    run.logged(words)
    run.logged(f"error   data#1 pid {os.getpid()} (uid {os.getuid()})")
    assert run.connect(path).served()


@pytest.mark.usefixtures("holder")
def test_the_zygotes_death_touches_no_worker_and_a_new_one_launches_the_next(run: Running, path: Path) -> None:
    keeper = the_one(run.of(1, WORKER))
    zygotes = [pid for pid in run.family() if pid not in (keeper, *run.of(2, WORKER))]
    os.kill(the_one(zygotes), signal.SIGKILL)
    run.logged(f"the zygote (pid {zygotes[0]}) died: killed by signal 9 (SIGKILL); running workers are not touched")
    run.logged("a new zygote runs")
    assert run.of(1, WORKER) == [keeper]
    os.kill(keeper, signal.SIGKILL)
    assert run.connect(path).served()
    assert run.stop() == 0
    run.nobody_left()


def test_a_warm_worker_that_is_killed_is_replaced(run: Running, path: Path) -> None:
    keeper = the_one(run.of(1, WORKER))
    os.kill(keeper, signal.SIGKILL)
    run.until(lambda: run.of(2, WORKER) != [] and keeper not in run.of(1, WORKER), "launch another")
    assert run.connect(path).served()


def test_deaths_in_the_middle_of_launches_leave_nothing_half_built(run: Running, path: Path) -> None:
    """The zygote or what it is just building is killed at any moment; every monitor is served all the same."""
    for number in range(20):
        caller = run.connect(path)
        assert caller.served()
        caller.close()
        time.sleep(random.uniform(0, 0.03))  # noqa: S311 any moment will do
        if number % 4 == 0:
            for pid in run.of(1, "virtiofs-sandbo"):
                os.kill(pid, signal.SIGKILL)
    assert run.connect(path).served()
    run.until(lambda: len(run.of(1, WORKER)) == 1 and len(children(run.process.pid)) == 2, "have one jail and a zygote")
    assert run.stop() == 0
    run.nobody_left()
