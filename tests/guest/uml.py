"""user-mode-linux: a guest kernel that is an ordinary program and speaks vhost-user itself.

Boots in a second without KVM and is a front end independent of QEMU's: it sends SET_MEM_TABLE with room for two
regions, reads the configuration space byte by byte, and never asks for GET_VRING_BASE.
"""

from __future__ import annotations

from pathlib import Path

from tests.guest.images import Image, user_mode_linux
from tests.guest.machine import MEMORY_MIB, Machine

VIRTIO_ID_FS = 26


class UserModeLinux(Machine):
    kind = "user-mode-linux"

    def __init__(self, work: Path, share: Path | None = None, image: Image | None = None) -> None:
        """*share* is a vhost-user socket, or None for a guest without one."""
        super().__init__(image or user_mode_linux(), work)
        self._share = share

    def command(self, initrd: Path, agent_fd: int) -> list[str]:
        device = [] if self._share is None else [f"virtio_uml.device={self._share}:{VIRTIO_ID_FS}"]
        return [
            str(self.image.program),
            f"mem={MEMORY_MIB}M",
            f"initrd={initrd}",
            f"uml_dir={self.work}",
            "umid=uml",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"ssl0=fd:{agent_fd}",
            "agent=ttyS0",
            "panic=1",
            *device,
        ]
