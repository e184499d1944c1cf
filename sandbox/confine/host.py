"""What this host allows, found by trying it."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.confine import ids, records
from virtiofs_sandbox.syscalls import landlock, processes
from virtiofs_sandbox.syscalls.capabilities import permitted_set


@dataclass(frozen=True)
class HostProbe:
    """*capabilities* is a mask, bit N for capability N. The errno fields are 0 where the try succeeded.

    *userns_errno*: making a user namespace; *identity_errno*: mapping all our ids into it to themselves.
    *uid_map* and *gid_map* are our own, as the kernel prints them. *landlock_abi* is 0 where there is no Landlock.
    *audit_errno*: reading the kernel's records of what it refused.
    """

    kernel: str
    uid: int
    gid: int
    capabilities: int
    last_capability: int
    uid_map: bytes
    gid_map: bytes
    userns_errno: int
    identity_errno: int
    landlock_abi: int
    nofile_hard: int
    nr_open: int
    audit_errno: int = 0


def probe_host() -> HostProbe:
    """Tries the features of the running kernel, in a short-lived child where a try cannot be undone.

    Forks: to be called while the process has one thread. Raises OSError if /proc cannot be read.
    """
    uid_map, gid_map = (Path(f"/proc/self/{name}").read_bytes() for name in ("uid_map", "gid_map"))
    userns_errno, identity_errno = _try_user_namespace(uid_map, gid_map)
    return HostProbe(
        kernel=os.uname().release,
        uid=os.geteuid(),
        gid=os.getegid(),
        capabilities=permitted_set(),
        last_capability=int(Path("/proc/sys/kernel/cap_last_cap").read_text()),
        uid_map=uid_map,
        gid_map=gid_map,
        userns_errno=userns_errno,
        identity_errno=identity_errno,
        landlock_abi=_landlock_abi(),
        nofile_hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        nr_open=int(Path("/proc/sys/fs/nr_open").read_text()),
        audit_errno=records.try_reading(),
    )


def _landlock_abi() -> int:
    try:
        return landlock.abi_version()
    except OSError:
        return 0


def _try_user_namespace(uid_map: bytes, gid_map: bytes) -> tuple[int, int]:
    """Returns (errno of making one, errno of the identity map)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _enter_and_wait(writing)
    os.close(writing)
    try:
        userns_errno = int.from_bytes(os.read(reading, 4), "little")
        if userns_errno:
            return userns_errno, userns_errno
        return 0, _map_errno(child, uid_map, gid_map)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _enter_and_wait(writing: int) -> None:
    """In the child: enters a user namespace, tells the errno and waits to be killed."""
    try:
        processes.unshare(processes.CLONE_NEWUSER)
        errno = 0
    except OSError as error:
        errno = error.errno or 0
    os.write(writing, errno.to_bytes(4, "little"))
    signal.pause()
    os._exit(0)


def _map_errno(child: int, uid_map: bytes, gid_map: bytes) -> int:
    try:
        ids.write_maps(child, ids.identity(uid_map), ids.identity(gid_map), deny_setgroups=False)
    except OSError as error:
        return error.errno or 0
    return 0
