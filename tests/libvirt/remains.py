"""What a virtual machine's life must not leave behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.libvirt.host import Host

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


def _is_ours(folder: str, name: str) -> bool:
    return "libvirt" in name or "virtiofs" in name or "virtiofs" in folder
