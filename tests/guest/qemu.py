"""QEMU without KVM: a whole machine, the monitor most people use, and a current guest kernel."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.guest.images import Image, qemu
from tests.guest.machine import MEMORY_MIB, Machine
from tests.guest.qmp import Qmp

# QEMU 7.2 spoils the flags after cmpxchg16b when it translates on some AMD hosts: guests die in their allocator.
CPU = "max,-cx16"


class Qemu(Machine):
    kind = "QEMU"

    def __init__(
        self,
        work: Path,
        share: Path | None = None,
        image: Image | None = None,
        tag: str = "share",
        processors: int = 1,
    ) -> None:
        """*share* is a vhost-user socket, or None for a guest without one. Each processor gets a request queue."""
        super().__init__(image or qemu(), work)
        self._share = share
        self._tag = tag
        self._processors = processors
        self._control, self._control_theirs = socket.socketpair()
        self.qmp: Qmp

    def command(self, initrd: Path, agent_fd: int) -> list[str]:
        memory = f"{MEMORY_MIB}M"
        queues = f"queue-size=1024,num-request-queues={self._processors}"
        device = (
            []
            if self._share is None
            else [
                *("-chardev", f"socket,id=fs,path={self._share}"),
                *("-device", f"vhost-user-fs-pci,chardev=fs,tag={self._tag},{queues}"),
            ]
        )
        return [
            str(self.image.program),
            *(
                "-accel",
                "tcg",
                "-cpu",
                CPU,
                "-smp",
                str(self._processors),
                "-machine",
                "q35,memory-backend=memory",
                "-m",
                memory,
            ),
            *("-object", f"memory-backend-memfd,id=memory,size={memory},share=on"),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-kernel", str(self.image.kernel), "-initrd", str(initrd)),
            *("-append", "console=ttyS0 quiet panic=1 agent=ttyS1"),
            *("-serial", "stdio"),
            *("-chardev", f"socket,id=agent,fd={agent_fd}", "-serial", "chardev:agent"),
            *("-chardev", f"socket,id=control,fd={self._control_theirs.fileno()}", "-mon", "control,mode=control"),
            *device,
        ]

    def inherited(self) -> Sequence[socket.socket]:
        return (self._control_theirs,)

    def wait_ready(self, seconds: float = 90) -> None:
        super().wait_ready(seconds)
        if not hasattr(self, "qmp"):
            self.qmp = Qmp(self._control)

    def reset(self, seconds: float = 90) -> None:
        """Press the reset button and wait for the guest to be up again: same monitor, same vhost-user connection."""
        self.qmp.execute("system_reset")
        self.wait_ready(seconds)

    def quit(self, seconds: float = 20) -> None:
        """End the monitor in good order, as management software does."""
        self.qmp.execute("quit")
        self.process.wait(seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._control.close()
        self._control_theirs.close()
