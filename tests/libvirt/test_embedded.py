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
        assert len(host.named("virtiofs-worker data@embedded-fs0")) == 2, "keeper and worker"
        machine.agent.start("poweroff -f")
        # It waits for a signal even then.
        host.until(lambda: _more(host, before) == ["virt-qemu-run"], "all but virt-qemu-run is gone", 30)
    assert host.processes() == before.processes
    more = Remains.of(host).files - before.files
    assert not [file for file in more if ("fs0" in file or "virtiofs" in file) and not file.endswith(".log")]


def _more(host: Host, before: Remains) -> list[str]:
    """The programs that run now and did not then."""
    return [line.partition(" ")[0] for pid, line in host.processes().items() if pid not in before.processes]
