"""libvirt with no daemon: virt-qemu-run, which has libvirt's QEMU driver in its own process (qemu:///embed)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from tests.libvirt.daemon import QEMU_CONF
from tests.libvirt.domain import Domain
from tests.libvirt.host import Host

ROOT = "/var/lib/libvirt/embed"


@contextlib.contextmanager
def machine(host: Host, name: str, *filesystems: str) -> Iterator[Domain]:
    """A virtual machine that has booted, and ends with virt-qemu-run when the context is left."""
    settings = host.path(f"{ROOT}/etc")
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "qemu.conf").write_text(QEMU_CONF.format(controllers=""))
    with Domain(host, name, *filesystems) as domain:
        definition = host.path(f"{ROOT}/{name}.xml")
        definition.write_text(domain.xml)
        log = host.work / "virt-qemu-run.log"
        waiting = host.start_process("virt-qemu-run", f"--root={ROOT}", f"{ROOT}/{name}.xml", log=log)
        try:
            domain.wait_ready()
            yield domain
        finally:
            for pid in host.named("virt-qemu-run"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            waiting.wait(30)
