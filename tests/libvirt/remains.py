"""What a virtual machine's life must not leave behind."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from tests.libvirt.host import Host, HostError

CGROUPS = Path("/sys/fs/cgroup")
# Where libvirt keeps the sockets and pid files of what runs; logs and its own state of definitions stay.
PLACES = ("/run/libvirt/qemu", "/run/virtiofs-sandbox", "/var/lib/libvirt")


@dataclass(frozen=True)
class Remains:
    """Everything that is there at one time; *processes* by pid and command line."""

    processes: dict[int, str]
    files: frozenset[str]
    mounts: tuple[str, ...]
    groups: frozenset[str]

    @classmethod
    def of(cls, host: Host) -> Remains:
        files = {
            os.path.join(folder, name)
            for place in PLACES
            for folder, _, names in os.walk(host.path(place))
            for name in names
        }
        groups = {folder for folder, below, _ in os.walk(CGROUPS) for name in below if _is_ours(folder, name)}
        return cls(host.processes(), frozenset(files), tuple(host.mounts()), frozenset(groups))

    def beyond(self, before: Remains) -> list[str]:
        """What is here and was not there."""
        return [
            *(line for pid, line in self.processes.items() if pid not in before.processes),
            *sorted(self.files - before.files),
            *(mount for mount in self.mounts if mount not in before.mounts),
            *sorted(self.groups - before.groups),
        ]


def wait_gone(host: Host, before: Remains, seconds: float = 20) -> None:
    """Until nothing is there that was not before. Raises HostError with what is."""
    deadline = time.monotonic() + seconds
    while more := Remains.of(host).beyond(before):
        if time.monotonic() > deadline:
            raise HostError("still there:\n" + "\n".join(more))
        time.sleep(0.1)


def _is_ours(folder: str, name: str) -> bool:
    return "libvirt" in name or "virtiofs" in name or "virtiofs" in folder
