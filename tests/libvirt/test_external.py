"""A share that is in service already, by `virtiofs-sandbox run`, under machines that libvirt starts and ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.guest.frontend import FrontEnd
from tests.guest.service import is_jailed
from tests.libvirt.daemon import Libvirtd
from tests.libvirt.documented import example
from tests.libvirt.domain import Domain
from tests.libvirt.host import Host

HELLO = "hello from the host\n"
MOUNT = "mount -t virtiofs library /mnt"


@dataclass
class Supervisor:
    """`virtiofs-sandbox run library` of the installed copy."""

    host: Host
    process: subprocess.Popen[bytes]
    pid: int

    @property
    def workers(self) -> list[int]:
        """Pids of keepers and workers."""
        return [pid for pid in self.host.processes() if is_jailed(pid)]

    @property
    def log(self) -> str:
        return (self.host.work / "run.log").read_text()


@pytest.fixture(scope="module")
def supervisor(host: Host) -> Iterator[Supervisor]:
    log = host.work / "run.log"
    process = host.start_process("virtiofs-sandbox", "run", "library", log=log)
    host.until(lambda: "ready: " in log.read_text() or process.poll() is not None, "the share is in service")
    assert process.poll() is None, log.read_text()
    supervisor = Supervisor(host, process, min(host.named("virtiofs-sandbox run library")))
    yield supervisor
    os.kill(supervisor.pid, signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.fixture(scope="module")
def machine(libvirtd: Libvirtd, supervisor: Supervisor) -> Iterator[Domain]:
    with libvirtd.machine("external", example("external")) as domain:
        yield domain


def test_the_documented_element_gives_a_guest_the_share(machine: Domain, host: Host) -> None:
    host.path("/srv/library/new").write_text("new\n")
    assert machine.check(f"{MOUNT}; cat /mnt/hello /mnt/new") == f"{HELLO}new\n"
    assert machine.run("touch /mnt/answer").status != 0, "the policy says read-only"


def test_the_share_is_there_after_a_reset_on_the_same_connection(
    machine: Domain, libvirtd: Libvirtd, supervisor: Supervisor
) -> None:
    before = supervisor.workers
    libvirtd.virsh("reset", machine.name)
    machine.wait_ready()
    assert machine.check(f"{MOUNT}; cat /mnt/hello") == HELLO
    assert set(before) <= set(supervisor.workers)


def test_a_share_whose_worker_died_comes_back_by_plugging_it_in_again(
    machine: Domain, libvirtd: Libvirtd, supervisor: Supervisor
) -> None:
    """QEMU does not connect again by itself; the machine runs on."""
    machine.check(f"grep -q /mnt /proc/mounts || {MOUNT}")
    (worker,) = [pid for pid in supervisor.workers if _serves(pid)]
    os.kill(worker, signal.SIGKILL)
    supervisor.host.until(lambda: worker not in supervisor.workers, "the worker's end")
    assert libvirtd.virsh("domstate", machine.name) == "running"
    libvirtd.virsh("detach-device", machine.name, xml=example("external"))
    machine.check("until umount /mnt; do sleep 0.1; done", 20)
    libvirtd.virsh("attach-device", machine.name, xml=example("external"))
    assert machine.check(f"until {MOUNT} 2>/dev/null; do sleep 0.1; done; cat /mnt/hello", 30) == HELLO


def test_the_guest_works_on_while_libvirtd_is_restarted(machine: Domain, libvirtd: Libvirtd) -> None:
    machine.check(f"grep -q /mnt /proc/mounts || {MOUNT}")
    libvirtd.stop()
    assert machine.check("cat /mnt/hello") == HELLO
    libvirtd.start()
    assert libvirtd.virsh("domstate", machine.name) == "running"
    assert machine.check("cat /mnt/hello") == HELLO


def test_a_request_in_flight_when_the_worker_dies_hangs_and_the_supervisor_serves_the_next(
    machine: Domain, libvirtd: Libvirtd, supervisor: Supervisor
) -> None:
    machine.check(f"grep -q /mnt /proc/mounts || {MOUNT}")
    (worker,) = [pid for pid in supervisor.workers if _serves(pid)]
    os.kill(worker, signal.SIGKILL)
    machine.check("(cat /mnt/hello >/run/late 2>&1; echo $? >>/run/late) & sleep 2; test ! -s /run/late")
    assert libvirtd.virsh("domstate", machine.name) == "running"
    libvirtd.virsh("destroy", machine.name)
    with FrontEnd.connect(supervisor.host.path("/run/virtiofs-sandbox/library.sock")) as next_client:
        next_client.start()
        next_client.init()
        assert b"hello" in next_client.list()


def _serves(pid: int) -> bool:
    """Whether it is the worker of a share that is in use: then it has a guest's memory mapped."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return "memfd:memory-backend-memfd" in maps.read()
