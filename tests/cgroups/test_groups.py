"""The control groups of a share in service: there before its first jail, gone after its last, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cgroups.site import Limited, Site, group_of, members
from tests.guest.frontend import FrontEnd
from tests.guest.service import ServiceError, alive

CONTROLLERS = ("memory", "cpu", "pids")
POLICY = '[limits.memory]\nmax = "256MiB"\n[limits.cpu]\nmax = "80%"\n[limits.pids]\nmax = 100\n'
MEMORY = str(256 << 20)


def all_in(site: Site, service: Limited) -> bool:
    processes = service.wait_worker()
    jail = {*processes.keepers, *processes.workers}
    return all(jail <= members(site.group(controller)) for controller in CONTROLLERS)


def every_process_is_in(site: Site, service: Limited) -> None:
    """One that just died is in no group, and may still be among the supervisor's children."""
    service.wait(lambda: all_in(site, service), "have its jail in its groups")


def until(condition: Callable[[], bool], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_a_worker_is_in_its_groups_and_the_limits_are_the_kernel_s(site: Site, tmp_path: Path) -> None:
    with Limited(tmp_path, site, POLICY).start() as service:
        processes = service.wait_worker()
        for pid in (*processes.keepers, *processes.workers):
            for controller in CONTROLLERS:
                assert group_of(pid, site.group(controller)), (pid, controller)
        for controller in CONTROLLERS:
            assert not {processes.supervisor, *processes.zygotes} & members(site.group(controller))
        assert site.limit("memory") == MEMORY
        assert site.limit("cpu").split()[0] == "80000"
        assert site.limit("pids") == "100"
        assert service.stop() == 0
    assert site.left() == []


@pytest.mark.parametrize("role", ["workers", "keepers", "zygotes"])
def test_after_a_kill_the_next_jail_is_held_as_the_last_one_was(site: Site, tmp_path: Path, role: str) -> None:
    with Limited(tmp_path, site, POLICY).start() as service:
        before = service.wait_worker()
        for pid in getattr(before, role):
            os.kill(pid, signal.SIGKILL)
        if role == "zygotes":
            for pid in before.workers:
                os.kill(pid, signal.SIGKILL)
        # One that died is listed until its supervisor noticed, and a client that came before then would be its client.
        service.wait(lambda: set(before.workers).isdisjoint(service.wait_worker().workers), "replace its worker")
        every_process_is_in(site, service)
        assert site.limit("memory") == MEMORY
        with FrontEnd.connect(service.socket) as client:
            client.start()
            client.init()
            assert client.serves()
        every_process_is_in(site, service)
        assert service.stop() == 0
    assert site.left() == []


def test_what_a_killed_supervisor_left_is_found_and_made_anew(site: Site, tmp_path: Path) -> None:
    with Limited(tmp_path, site, POLICY).start() as service:
        before = service.wait_worker()
        os.kill(service.supervisor, signal.SIGKILL)
        service.process.wait(10)
        until(lambda: not any(map(alive, before.workers)), "the worker outlives its supervisor")
    assert site.group("memory").is_dir()
    service.socket.unlink()
    with Limited(tmp_path, site, '[limits.memory]\nmax = "300MiB"\n[limits.pids]\nmax = 64\n').start() as service:
        processes = service.wait_worker()
        assert group_of(processes.workers[0], site.group("memory"))
        assert (site.limit("memory"), site.limit("pids")) == (str(300 << 20), "64")
        assert service.stop() == 0
    assert site.left() == [], "the group of a controller that is not used any more is gone too"


def test_what_a_killed_supervisor_left_is_removed_by_whichever_starts_next(site: Site, tmp_path: Path) -> None:
    """Also by one of another share, and one without limits; never what is in use."""
    left = site.group("memory", "share-killed")
    left.mkdir(parents=True)
    with Limited(tmp_path / "one", site, POLICY).start() as first:
        assert not left.exists()
        left.mkdir()
        with Limited(tmp_path / "two", site, "").start() as second:
            assert not left.exists()
            every_process_is_in(site, first)
            assert second.stop() == 0
        every_process_is_in(site, first)
        assert first.stop() == 0
    assert site.left() == []


def test_a_group_with_somebody_else_s_process_in_it_is_not_taken(site: Site, tmp_path: Path) -> None:
    group = site.group("pids")
    group.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        (group / "cgroup.procs").write_text(str(other.pid))
        with Limited(tmp_path, site, "[limits.pids]\nmax = 64\n") as service:
            with pytest.raises(ServiceError, match=f"processes in it: {other.pid}; end them"):
                service.start()
            assert service.process.wait(10) == 1
        assert other.poll() is None
        other.kill()


def test_two_supervisors_do_not_share_a_group(site: Site, tmp_path: Path) -> None:
    with Limited(tmp_path / "one", site, POLICY).start() as first:
        refused = pytest.raises(ServiceError, match="another supervisor has a share 'guest' in service")
        with Limited(tmp_path / "two", site, POLICY) as second, refused:
            second.start()
        every_process_is_in(site, first)
        assert first.stop() == 0


def test_a_reload_reaches_the_jail_that_serves_and_its_client_stays(site: Site, tmp_path: Path) -> None:
    """Also where it was launched without any group."""
    with Limited(tmp_path, site, "").start() as service, FrontEnd.connect(service.socket) as client:
        client.start()
        client.init()
        serving = service.wait_worker().workers
        assert site.left() == []
        assert "limits.memory.max default -> 268435456" in service.reload(POLICY)
        every_process_is_in(site, service)
        assert service.processes().workers == serving
        assert site.limit("memory") == MEMORY
        log = service.reload('[limits.memory]\nmax = "128MiB"\n')
        assert "limits.pids 100 -> default" in log
        assert site.limit("memory") == str(128 << 20)
        assert site.limit("pids") == "max", "what the policy does not say any more is lifted"
        assert client.serves()
        assert service.stop() == 0
    assert site.left() == []


def test_every_jail_of_a_monitor_that_comes_back_is_held(site: Site, tmp_path: Path) -> None:
    with Limited(tmp_path, site, POLICY).start() as service:
        seen: set[int] = set()
        for number in range(3):
            with FrontEnd.connect(service.socket) as client:
                client.start()
                client.init()
                every_process_is_in(site, service)
                seen |= set(service.processes().workers)
            assert len(seen) == number + 1
            service.wait(lambda: seen.isdisjoint(service.wait_worker().workers), "end the worker that served")  # noqa: B023
        assert service.stop() == 0
    assert site.left() == []


def test_a_reload_that_cannot_be_held_changes_nothing(site: Site, tmp_path: Path) -> None:
    with Limited(tmp_path, site, POLICY).start() as service:
        (site.base("pids") / "pids.max").write_text("200")
        log = service.reload(POLICY.replace("max = 100", "max = 201"))
        assert "reload refused: limits.pids.max: 201 is more than the 200 that the control group" in log
        assert site.limit("pids") == "100"
        assert service.stop() == 0


def test_a_limit_above_that_of_a_group_around_is_refused_by_its_key(site: Site, tmp_path: Path) -> None:
    (site.base("pids") / "pids.max").write_text("99")
    refused = pytest.raises(ServiceError, match=r"limits\.pids\.max: 100 is more than the 99 that the control group")
    with Limited(tmp_path, site, POLICY) as service, refused:
        service.start()
    assert site.left() == []


def test_what_no_disk_is_behind_is_refused_or_warned_of_as_the_policy_says(site: Site, tmp_path: Path) -> None:
    memory = Path("/dev/shm", f"virtiofs-{os.getpid()}")  # noqa: S108 - the one place that is in memory everywhere
    memory.mkdir()
    try:
        limits = f'source = "{memory}" # no tree\n[limits.disk]\nwrite = "1MiB/s"\n[limits]\nunenforceable = '
        reason = f"limits.disk.write cannot be held here: {memory}: it is on tmpfs: it is in memory"
        with InMemory(tmp_path, site, limits + '"refuse"\n') as service, pytest.raises(ServiceError, match=reason):
            service.start()
        with InMemory(tmp_path, site, limits + '"warn"\n').start() as service:
            assert "limits.disk.write is not held" in service.log
            assert service.stop() == 0
    finally:
        memory.rmdir()


class InMemory(Limited):
    """Its policy names the source itself."""

    def write(self, policy: str) -> None:
        super().write(f"{policy}# tree\n")


def test_a_fork_bomb_ends_at_its_limit(site: Site, tmp_path: Path) -> None:
    with Limited(tmp_path, site, "[limits.pids]\nmax = 64\n").start() as service:
        group = site.group("pids")
        bomb = "import os,sys,time\nn=0\ntry:\n while True:\n  if os.fork()==0: time.sleep(60)\n  n+=1\n"
        bomb += "except OSError as e: print(e.errno, n, flush=True)\nsys.stdin.read()\n"
        join = f"echo $$ > {group}/cgroup.procs && exec python3 -c '{bomb}'"
        with subprocess.Popen(
            ["sh", "-c", join], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout is not None
            number, children = map(int, process.stdout.readline().split())
            os.killpg(process.pid, signal.SIGKILL)
        assert number == 11  # EAGAIN
        assert children < 64
        assert service.stop() == 0
    assert site.left() == []
