"""User and group id maps of a jail's user namespace (user_namespaces(7))."""

from __future__ import annotations

import os

from virtiofs_sandbox.syscalls.base import named


def identity(own_map: bytes) -> bytes:
    """The map that gives every id we have ourselves the same number inside, from our own map as the kernel prints it.

    In the first user namespace that is the one line `0 0 4294967295`; in a container, its ranges.
    """
    extents = (line.split() for line in own_map.splitlines())
    return b"".join(b"%s %s %s\n" % (inside, inside, count) for inside, _outside, count in extents)


def only(number: int) -> bytes:
    """The map of a caller without privilege: its own id to itself, nothing else."""
    return b"%d %d 1\n" % (number, number)


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
