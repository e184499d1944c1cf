"""Which hierarchies of control groups there are, which controllers each has, and where in them this process is.

A hybrid host has several: each controller is in exactly one, of version 1 or 2 (cgroups(7)).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

UNIFIED = 2
# What version 1 calls the controller that version 2 calls io.
NAMES_V1 = {"io": "blkio", "memory": "memory", "cpu": "cpu", "pids": "pids"}
CONTROLLERS = tuple(NAMES_V1)
# Where the supervisor goes when its own group is to have groups below: version 2 allows no processes in such a one.
LEAF = "virtiofs-sandbox-supervisor"
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo: *root* is the directory of the file system that is seen at *point*."""

    number: int
    root: str
    point: str
    kind: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Hierarchy:
    """*mount* is where it is seen and *own* the directory of our own group there; *controllers* in our names ("io").

    *root* is the path, from the hierarchy's own root, of what is seen at *mount*.
    """

    version: int
    mount: str
    root: str
    own: str
    controllers: frozenset[str]

    def directory(self, path: str) -> str:
        """Where the group is seen that /proc/PID/cgroup calls *path*."""
        return seen(self.mount, self.root, path)


def find() -> tuple[Hierarchy, ...]:
    """Those of this process. Raises OSError if /proc cannot be read."""
    return parse(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def parse(mountinfo: str, membership: str) -> tuple[Hierarchy, ...]:
    """From the texts of /proc/self/mountinfo and /proc/self/cgroup; the first mount of each hierarchy counts."""
    groups = [line.split(":", 2) for line in membership.splitlines()]
    found: dict[frozenset[str], Hierarchy] = {}
    for mount in mounts(mountinfo):
        if mount.kind == "cgroup2":
            ours = [path for number, names, path in groups if number == "0" and not names]
            controllers = frozenset[str]()
        elif mount.kind == "cgroup":
            controllers = frozenset(ours_ for ours_, theirs in NAMES_V1.items() if theirs in mount.options)
            ours = [path for _, names, path in groups if set(names.split(",")) & set(mount.options)]
        else:
            continue
        unified = mount.kind == "cgroup2"
        if not ours or not (unified or controllers) or controllers in found:
            continue
        own = seen(mount.point, mount.root, ours[0])
        if unified:
            own = own.removesuffix(f"/{LEAF}")
            controllers = frozenset[str]()
        found[controllers] = Hierarchy(UNIFIED if unified else 1, mount.point, mount.root, own, controllers)
    return tuple(
        Hierarchy(one.version, one.mount, one.root, one.own, available(one.own)) if one.version == UNIFIED else one
        for one in found.values()
    )


def available(directory: str) -> frozenset[str]:
    """The controllers that a group of version 2 can give to those below it; none when it cannot be read."""
    try:
        return frozenset(Path(directory, "cgroup.controllers").read_text().split()) & set(CONTROLLERS)
    except OSError:
        return frozenset()


def mounts(mountinfo: str) -> tuple[Mount, ...]:
    """Every line of a mountinfo text (proc_pid_mountinfo(5))."""
    parsed = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        number, _, _, root, point, *_ = before.split()
        kind, source, options = (*after.split(" ", 2), "", "")[:3]
        parsed.append(
            Mount(int(number), _plain(root), _plain(point), kind, _plain(source), tuple(_plain(options).split(",")))
        )
    return tuple(parsed)


def seen(mount: str, root: str, path: str) -> str:
    """Where the group *path* is, of a hierarchy whose part *root* is at *mount*."""
    relative = os.path.relpath(path, root)
    # What lies outside of the part that is mounted is not seen at all; the mount's own root is the nearest to it.
    return mount if relative == "." or relative.startswith("..") else os.path.join(mount, relative)


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
