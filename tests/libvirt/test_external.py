"""A share that is in service already, by `virtiofs-sandbox serve`, under machines that libvirt starts and ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.guest.frontend import FrontEnd
from tests.libvirt.daemon import Libvirtd
from tests.libvirt.documented import example
from tests.libvirt.domain import Domain
from tests.libvirt.host import Host

HELLO = "hello from the host\n"
MOUNT = "mkdir -p /run/library; until mount -t virtiofs library /run/library 2>/dev/null; do sleep 0.1; done"


@dataclass
class Supervisor:
    """`virtiofs-sandbox serve` of the installed copy."""

    host: Host
    process: subprocess.Popen[bytes]
    pid: int

    @property
    def workers(self) -> list[int]:
        """Pids of the share's keepers and workers."""
        return self.host.named("virtiofs-worker library")

    def kill_worker(self) -> None:
        """The one that has a client."""
        (worker,) = [pid for pid in self.workers if _serves(pid)]
        os.kill(worker, signal.SIGKILL)
        self.host.until(lambda: worker not in self.workers, "the worker's end")


@pytest.fixture(scope="module")
def supervisor(host: Host) -> Iterator[Supervisor]:
    log = host.work / "serve.log"
    process = host.start_process("virtiofs-sandbox", "serve", log=log)
    host.until(
        lambda: "ready: /srv/library" in log.read_text() or process.poll() is not None, "the share is in service"
    )
    assert process.poll() is None, log.read_text()
    supervisor = Supervisor(host, process, min(host.named("virtiofs-sandbox serve")))
    yield supervisor
    os.kill(supervisor.pid, signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.fixture
def plugged(machine: Domain, libvirtd: Libvirtd, supervisor: Supervisor) -> Iterator[Domain]:
    """The machine with the share plugged in and mounted."""
    libvirtd.virsh("attach-device", machine.name, xml=example("external"))
    machine.check(MOUNT, 30)
    yield machine
    libvirtd.virsh("detach-device", machine.name, xml=example("external"))
    machine.check("until umount /run/library; do sleep 0.1; done", 20)


def test_the_documented_element_gives_a_guest_the_share(plugged: Domain, host: Host) -> None:
    host.path("/srv/library/new").write_text("new\n")
    assert plugged.check("cat /run/library/hello /run/library/new") == f"{HELLO}new\n"
    assert plugged.run("touch /run/library/answer").status != 0, "the policy says read-only"


def test_unplugged_it_leaves_the_supervisor_in_service(
    machine: Domain, libvirtd: Libvirtd, supervisor: Supervisor
) -> None:
    for _ in range(2):
        libvirtd.virsh("attach-device", machine.name, xml=example("external"))
        assert machine.check(f"{MOUNT}; cat /run/library/hello", 30) == HELLO
        libvirtd.virsh("detach-device", machine.name, xml=example("external"))
        machine.check("until umount /run/library; do sleep 0.1; done", 20)
    supervisor.host.until(lambda: len(supervisor.workers) == 2, "one jail is warm, and the machine's are gone")


def test_a_share_whose_worker_died_comes_back_by_plugging_it_in_again(
    plugged: Domain, libvirtd: Libvirtd, supervisor: Supervisor
) -> None:
    """QEMU does not connect again by itself; the machine runs on."""
    plugged.settle("/run/library")
    supervisor.kill_worker()
    assert libvirtd.virsh("domstate", plugged.name) == "running"
    libvirtd.virsh("detach-device", plugged.name, xml=example("external"))
    plugged.check("until umount /run/library; do sleep 0.1; done", 20)
    libvirtd.virsh("attach-device", plugged.name, xml=example("external"))
    assert plugged.check(f"{MOUNT}; cat /run/library/hello", 30) == HELLO


@pytest.mark.slow
def test_a_request_in_flight_when_the_worker_dies_hangs_and_the_supervisor_serves_the_next(
    libvirtd: Libvirtd, supervisor: Supervisor
) -> None:
    with libvirtd.machine("library1", example("external")) as machine:
        machine.check(MOUNT)
        supervisor.kill_worker()
        machine.check("(cat /run/library/hello ; echo $? >/run/late) & sleep 2; test ! -e /run/late")
        assert libvirtd.virsh("domstate", machine.name) == "running"
    with FrontEnd.connect(supervisor.host.path("/run/virtiofs-sandbox/library.sock")) as following:
        following.start()
        following.init()
        assert b"hello" in following.list()


def _serves(pid: int) -> bool:
    """Whether it is the worker of a share that is in use: then it has a guest's memory mapped."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return "memfd:memory-backend-memfd" in maps.read()
