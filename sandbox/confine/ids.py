"""User and group id maps of a jail's user namespace (user_namespaces(7))."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from virtiofs_sandbox.syscalls.base import named

HELPERS = ("newuidmap", "newgidmap")
_SYSTEM_PATH = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"


def identity(own_map: bytes) -> bytes:
    """The map that gives every id we have ourselves the same number inside, from our own map as the kernel prints it.

    In the first user namespace that is the one line `0 0 4294967295`; in a container, its ranges.
    """
    extents = (line.split() for line in own_map.splitlines())
    return b"".join(b"%s %s %s\n" % (inside, inside, count) for inside, _outside, count in extents)


def single(inside: int, outside: int, count: int = 1) -> bytes:
    """The map of one extent."""
    return b"%d %d %d\n" % (inside, outside, count)


def inside(id_map: bytes, outside: int) -> int:
    """What the id *outside* is called where *id_map* holds; itself without a map."""
    for line in id_map.splitlines():
        first, from_, count = map(int, line.split())
        if from_ <= outside < from_ + count:
            return first + outside - from_
    return outside


def subordinate(file: Path, number: int, name: str | None) -> tuple[tuple[int, int], ...]:
    """What *file* (/etc/subuid or /etc/subgid) grants the user called *name* with id *number*: (first, count) each.

    A line names its user by name or by number; one that is malformed grants nothing. Empty where there is no such file.
    subuid(5).
    """
    try:
        content = file.read_text(errors="replace")
    except OSError:
        return ()
    users = {str(number), name}
    fields = (line.strip().split(":") for line in content.splitlines())
    return tuple(
        (int(line[1]), int(line[2]))
        for line in fields
        if len(line) == 3 and line[0] in users and _is_number(line[1]) and _is_number(line[2]) and int(line[2])
    )


def helper(name: str) -> bytes:
    """The path of newuidmap(1) or newgidmap(1); where it would be if it is not installed."""
    return os.fsencode(shutil.which(name, path=_SYSTEM_PATH) or f"/usr/bin/{name}")


def helpers_installed() -> bool:
    return all(os.access(helper(name), os.X_OK) for name in HELPERS)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def write_maps(pid: int, uid_map: bytes, gid_map: bytes, *, deny_setgroups: bool) -> None:
    """Writes the maps of the user namespace that *pid* just made. Raises SyscallError naming the file.

    Without privilege the kernel wants setgroups(2) denied first: a group that takes rights away could be dropped.
    """
    if deny_setgroups:
        _write(pid, "setgroups", b"deny")
    _write(pid, "uid_map", uid_map)
    _write(pid, "gid_map", gid_map)


def _write(pid: int, name: str, content: bytes) -> None:
    path = b"/proc/%d/%s" % (pid, name.encode())
    descriptor = named(f"write({name})", os.open, path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        named(f"write({name})", os.write, descriptor, content)
    finally:
        os.close(descriptor)
