"""A virtual machine of libvirt whose guest is the agent of tests/guest."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from tests.guest.agent import Agent, GuestError, Outcome
from tests.guest.machine import CONSOLE_TAIL
from tests.libvirt.documented import example
from tests.libvirt.host import GUEST, Host

# Root ports for what is plugged in while it runs; "maximum" less the feature that QEMU 7.2 translates wrongly.
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  {memory}
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{guest}/kernel</kernel>
    <initrd>{guest}/initrd</initrd>
    <cmdline>console=ttyS0 quiet panic=1 agent=ttyS1</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'><feature policy='disable' name='cx16'/></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' model='pcie-root'/>
    {ports}
    {filesystems}
    <serial type='file'><source path='{agents}/{name}.console'/></serial>
    <serial type='unix'><source mode='connect' path='{agents}/{name}'/><target port='1'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
PORTS = 6
AGENTS = "/run/agents"


class Domain:
    """Its definition, and a conversation with its guest. Who starts and ends it is another's matter.

    *filesystems* are elements for <devices>.
    """

    def __init__(self, host: Host, name: str, *filesystems: str) -> None:
        self.name = name
        self.host = host
        self.xml = DOMAIN.format(
            name=name,
            memory=example("memory"),
            guest=GUEST,
            agents=AGENTS,
            ports="<controller type='pci' model='pcie-root-port'/>" * PORTS,
            filesystems="\n".join(filesystems),
        )
        self._place = host.path(f"{AGENTS}/{name}")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._place))
        self._place.chmod(0o666)
        self._listener.listen()
        self.agent: Agent

    def wait_ready(self, seconds: float = 90) -> str:
        """Waits until the guest has booted, for the first time or again; returns its kernel's release."""
        try:
            if not hasattr(self, "agent"):
                self._listener.settimeout(seconds)
                self.agent = Agent(self._listener.accept()[0])
            return self.agent.wait_ready(seconds)
        except OSError as error:
            raise self._failed("boot", error) from error

    def run(self, script: str, seconds: float = 60) -> Outcome:
        try:
            return self.agent.run(script, seconds)
        except OSError as error:
            raise self._failed(f"run {script!r}", error) from error

    def check(self, script: str, seconds: float = 60) -> str:
        """Runs a script that must succeed and returns what it printed. Raises GuestError."""
        outcome = self.run(script, seconds)
        if outcome.status != 0:
            raise GuestError(f"status {outcome.status} from: {script}\n{outcome.output}")
        return outcome.output

    def settle(self, mount: str) -> None:
        """Waits until no request of the mount is in flight. Mounting and closing go on when their calls have returned,
        and a guest does not let go of a device that owes it an answer. A name that is not there is always asked for.
        """
        self.run(f"ls {mount}/nothing")

    def close(self) -> None:
        if hasattr(self, "agent"):
            self.agent.close()
        self._listener.close()
        self._place.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _failed(self, action: str, cause: Exception) -> GuestError:
        console = self.host.path(f"{AGENTS}/{self.name}.console")
        said = console.read_text(errors="replace")[-CONSOLE_TAIL:] if console.exists() else "(no console)"
        return GuestError(f"{self.name} did not {action} ({cause}); its console ends:\n{said}")
