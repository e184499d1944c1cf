"""libvirtd without a service manager, and virsh."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from tests.libvirt.domain import Domain
from tests.libvirt.host import Host, HostError

URI = "qemu:///system"
# No service manager, no security module, and whoever runs the tests has the control groups they have.
QEMU_CONF = """\
security_driver = "none"
namespaces = []
cgroup_controllers = [{controllers}]
stdio_handler = "file"
"""
LIBVIRTD_CONF = 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n'


class Libvirtd:
    """The daemon of a host; leaving the context destroys every virtual machine and ends it."""

    def __init__(self, host: Host, controllers: tuple[str, ...] = ()) -> None:
        self.host = host
        self.controllers = controllers
        self._log = host.work / "libvirtd.log"
        place = host.path("/etc/libvirt")
        (place / "libvirtd.conf").write_text(LIBVIRTD_CONF)
        (place / "qemu.conf").write_text(QEMU_CONF.format(controllers=", ".join(f'"{name}"' for name in controllers)))
        self.pid = 0

    def start(self) -> None:
        """Waits until it answers, which takes long the first time: it asks QEMU what that can do."""
        self._waiting = self.host.start_process("libvirtd", log=self._log)
        self.host.until(self._answers, "libvirtd answers", 60)
        (self.pid,) = self.host.named("libvirtd")[-1:]

    def stop(self) -> None:
        """The daemon alone: its virtual machines stay."""
        os.kill(self.pid, signal.SIGTERM)
        self._waiting.wait(30)

    def virsh(self, *words: str, given: str = "") -> str:
        return self.host.run("virsh", "--quiet", "--connect", URI, *words, given=given).strip()

    @contextlib.contextmanager
    def machine(self, name: str, *filesystems: str) -> Iterator[Domain]:
        """A virtual machine that has booted, and is destroyed when the context is left."""
        with Domain(self.host, name, *filesystems) as domain:
            self.virsh("create", "/dev/stdin", given=domain.xml)
            try:
                domain.wait_ready()
                yield domain
            finally:
                if name in self.virsh("list", "--name").split():
                    self.virsh("destroy", name)

    def _answers(self) -> bool:
        if self._waiting.poll() is not None:
            raise HostError(f"libvirtd ended with status {self._waiting.returncode}:\n{self._log.read_text()[-4000:]}")
        return self.host.attempt("virsh", "--quiet", "--connect", URI, "version").returncode == 0
