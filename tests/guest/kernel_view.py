"""What the kernel says about a process: read from /proc by someone outside its jail."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.confine.capabilities import Capability

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
PROC_ROOT_INODE = 1
SECCOMP_MODES = {0: "off", 1: "strict", 2: "filter"}


@dataclass(frozen=True)
class KernelView:
    """`descriptors` maps numbers to what they are: a path, or a kind such as "socket" or "eventfd"."""

    pid: int
    namespaces: dict[str, str]
    capabilities: dict[str, frozenset[str]]
    no_new_privs: bool
    seccomp: str
    seccomp_filters: int
    root: tuple[str, ...]
    descriptors: dict[int, str]

    @classmethod
    def of(cls, pid: int) -> KernelView:
        """Raises FileNotFoundError, ProcessLookupError (it is gone), PermissionError (not ours to look at)."""
        process = Path(f"/proc/{pid}")
        lines = (process / "status").read_text(encoding="utf-8").splitlines()
        status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        return cls(
            pid=pid,
            namespaces={name: os.readlink(process / "ns" / name) for name in NAMESPACES},
            capabilities={name: decode_capabilities(int(status[name], 16)) for name in sets},
            no_new_privs=status["NoNewPrivs"] == "1",
            seccomp=SECCOMP_MODES[int(status["Seccomp"])],
            seccomp_filters=int(status["Seccomp_filters"]),
            root=tuple(sorted(os.listdir(process / "root"))),
            descriptors=_descriptors(process / "fd"),
        )

    def apart_from(self, other: KernelView) -> list[str]:
        """The namespaces that are not *other*'s."""
        return [name for name in NAMESPACES if self.namespaces[name] != other.namespaces[name]]


def decode_capabilities(bits: int) -> frozenset[str]:
    """Names where the jail has a word for them, else numbers."""
    known = {capability.value: capability.name.lower() for capability in Capability}
    return frozenset(known.get(number, f"capability-{number}") for number in range(64) if bits >> number & 1)


def _descriptors(folder: Path) -> dict[int, str]:
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(path.name)] = _kind(path)
    return dict(sorted(found.items()))


def _kind(path: Path) -> str:
    """What a descriptor is. What lies in a detached mount has a path that leads nowhere here, so its type must do."""
    target = os.readlink(path)
    if match := re.match(r"(socket|pipe):\[\d+\]$|anon_inode:\[(\w+)\]$|/(memfd:[^ ]*)", target):
        return next(group for group in match.groups() if group)
    status = path.stat()
    if stat.S_ISCHR(status.st_mode):
        return f"device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
    return f"{kind} of {'procfs' if status.st_ino == PROC_ROOT_INODE else 'the share'}"
