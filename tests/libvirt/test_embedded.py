"""The installed copy under libvirt in its smallest form, a machine in the foreground."""

from __future__ import annotations

from tests.libvirt import embedded
from tests.libvirt.documented import example
from tests.libvirt.host import Host
from tests.libvirt.remains import Remains


def test_a_machine_in_the_foreground_has_the_share_and_leaves_nothing_when_its_guest_powers_off(host: Host) -> None:
    before = Remains.of(host)
    with embedded.machine(host, "embedded", example("managed")) as machine:
        assert machine.check("mount -t virtiofs data /mnt; cat /mnt/hello") == "hello from the host\n"
        assert len(host.named("virtiofs-worker data@")) == 2, "keeper and worker"
        machine.agent.start("poweroff -f")
        host.until(lambda: not host.named("virt-qemu-run"), "virt-qemu-run ended with its machine", 30)
    host.until(lambda: Remains.of(host).processes == before.processes, "its processes are gone")
    left = Remains.of(host).files - before.files
    assert not [file for file in left if file.endswith((".pid", ".sock"))]
