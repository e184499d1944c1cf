"""The end of `run`: on a signal it leaves no process, socket file, control group or mount behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.integration.running import COMMANDS, Running, process_name

WORKER = {"fake": "python", "real": "virtiofs-worker"}


def control_groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_stop_leaves_nothing_behind(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        caller = run.connect(path)
        assert caller.served()
        family = dict(run.family())
        assert len(family) >= 2
        # It joins no control group of its own, so none can be left.
        assert {control_groups(pid) for pid in family} == {control_groups(os.getpid())}
        assert run.stop(number) == 0
        assert caller.closed()
        run.nobody_left()
    assert not path.exists()
    assert os.fspath(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list((tmp_path / "share").iterdir()) == []


@pytest.mark.parametrize("kind", COMMANDS)
def test_those_who_wait_are_closed_at_a_stop(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path), "--log-level", "debug") as run:
        run.ready()
        holder = run.connect(path)
        assert holder.served()
        waiting = run.connect(path)
        run.logged("connected and waits", 2)
        assert run.stop() == 0
        assert waiting.closed()


def test_a_worker_that_does_not_drain_is_killed_after_the_grace(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running("fake", tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        caller = run.connect(path)
        assert caller.served()
        caller.connection.send(b"deaf\n")
        time.sleep(0.1)
        began = time.monotonic()
        assert run.stop() == 0
        assert 5 <= time.monotonic() - began < 9
        assert "not stopped within 5 s" in run.log.read_text()
        run.nobody_left()


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running("fake", tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        caller = run.connect(path)
        assert caller.served()
        caller.connection.send(b"deaf\n")
        time.sleep(0.1)
        run.family()
        began = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        run.logged("stopping on SIGTERM")
        assert run.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 3
        run.nobody_left()


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_socket_that_is_no_longer_ours_is_not_removed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(os.fspath(path))
            assert run.stop() == 0
    assert path.is_socket()


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_signal_while_starting_is_obeyed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    for delay in (0.05, 0.15, 0.25, 0.35):
        with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
            time.sleep(delay)
            assert run.stop() in (0, -signal.SIGTERM)
            run.nobody_left()
            assert not path.exists()


def test_sigkill_of_the_supervisor_ends_its_workers_and_the_zygote(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running("real", tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        caller = run.connect(path)
        assert caller.served()
        family = run.family()
        assert list(family.values()).count(WORKER["real"]) >= 1
        run.process.kill()
        run.process.wait()
        run.nobody_left()
        assert caller.closed()
        assert all(process_name(pid) != name for pid, name in family.items())
    # What it could not clean up does not stop the next one.
    with Running("real", tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        assert run.connect(path).served()
