"""libvirtd without a service manager, and virsh."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from tests.libvirt.domain import Domain
from tests.libvirt.host import Host, HostError

# No service manager, no security module, and whoever runs the tests has the control groups they have.
QEMU_CONF = """\
security_driver = "none"
namespaces = []
cgroup_controllers = [{controllers}]
stdio_handler = "file"
"""
_ELEMENT = "/run/agents/element.xml"
LIBVIRTD_CONF = 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n'


class Libvirtd:
    """The daemon of a host; leaving the context destroys every virtual machine and ends it."""

    def __init__(self, host: Host, controllers: tuple[str, ...] = (), user: int = 0) -> None:
        """*user* other than root: a session's daemon. *controllers*: of which machines get control groups."""
        self.host = host
        self.user = user
        self.controllers = controllers
        self._log = host.work / f"libvirtd-{user}.log"
        self._settings = "/home/sharer/.config/libvirt" if user else "/etc/libvirt"
        place = host.path(self._settings)
        place.mkdir(parents=True, exist_ok=True)
        for folder in (place, place.parent):
            if user:
                os.chown(folder, user, user)
        (place / "libvirtd.conf").write_text(LIBVIRTD_CONF)
        (place / "qemu.conf").write_text(QEMU_CONF.format(controllers=", ".join(f'"{name}"' for name in controllers)))
        self.pid = 0

    def start(self) -> None:
        """Waits until it answers, which takes long the first time: it asks QEMU what that can do."""
        self._waiting = self.host.start_process(
            "libvirtd", "--config", f"{self._settings}/libvirtd.conf", log=self._log, user=self.user
        )
        self.host.until(self._answers, "libvirtd answers", 60)
        (self.pid,) = self.host.named(f"libvirtd --config {self._settings}")

    def stop(self) -> None:
        """The daemon alone: its virtual machines stay."""
        os.kill(self.pid, signal.SIGTERM)
        self._waiting.wait(30)

    def virsh(self, *words: str, xml: str = "") -> str:
        """Runs a command, whose last argument is a file with *xml* if that is given. Raises HostError."""
        if xml:
            self.host.path(_ELEMENT).write_text(xml)
            words = (*words, _ELEMENT)
        return self.host.run("virsh", *self._connect, *words, user=self.user).strip()

    @contextlib.contextmanager
    def machine(self, name: str, *filesystems: str) -> Iterator[Domain]:
        """A virtual machine that has booted, and is destroyed when the context is left."""
        with Domain(self.host, name, *filesystems) as domain:
            self.virsh("create", xml=domain.xml)
            try:
                domain.wait_ready()
                yield domain
            finally:
                if name in self.virsh("list", "--name").split():
                    self.virsh("destroy", name)

    @property
    def _connect(self) -> tuple[str, ...]:
        return ("--quiet", "--connect", "qemu:///session" if self.user else "qemu:///system")

    def _answers(self) -> bool:
        if self._waiting.poll() is not None:
            raise HostError(f"libvirtd ended with status {self._waiting.returncode}:\n{self._log.read_text()[-4000:]}")
        return self.host.attempt("virsh", *self._connect, "version", user=self.user).returncode == 0
