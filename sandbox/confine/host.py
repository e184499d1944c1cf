"""What this host allows, found by trying it."""

from __future__ import annotations

import os
import pwd
import resource
from dataclasses import dataclass
from pathlib import Path

import prctl
from virtiofs_sandbox.cgroups.hierarchies import Hierarchy, find
from virtiofs_sandbox.confine import ids, ladder, records
from virtiofs_sandbox.syscalls import landlock
from virtiofs_sandbox.syscalls.capabilities import permitted_set

SUBUID, SUBGID = Path("/etc/subuid"), Path("/etc/subgid")


@dataclass(frozen=True)
class HostProbe:
    """*capabilities* is a mask, bit N for capability N. The errno fields are 0 where the try succeeded.

    *userns_errno*: making a user namespace; *identity_errno*: mapping all our ids into it to themselves; *mounts_errno*
    and *mounts_call*: the other namespaces, and mounts inside it, where the call is the first one refused on the way to
    a root of its own; *idmapped_errno*: id-mapping a mount. *uid_map* and *gid_map* are our own, as the kernel prints
    them; *subuid* and *subgid* what our user may map besides, (first, count) each, *newuidmap* whether the two programs
    that do it are installed and may gain the rights for it. *landlock_abi* is 0 where there is no Landlock.
    *audit_errno*: reading the kernel's records of what it refused. *hierarchies* are those of control groups.
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
    mounts_errno: int
    mounts_call: str
    idmapped_errno: int
    subuid: tuple[tuple[int, int], ...]
    subgid: tuple[tuple[int, int], ...]
    newuidmap: bool
    landlock_abi: int
    nofile_hard: int
    nr_open: int
    audit_errno: int = 0
    hierarchies: tuple[Hierarchy, ...] = ()


def probe_host() -> HostProbe:
    """Tries the features of the running kernel, in short-lived children where a try cannot be undone.

    Forks: to be called while the process has one thread. Raises OSError if /proc cannot be read.
    """
    uid, gid = os.geteuid(), os.getegid()
    uid_map, gid_map = (Path(f"/proc/self/{name}").read_bytes() for name in ("uid_map", "gid_map"))
    userns_errno = ladder.user_namespace()
    mount_rights = ladder.Refusal(userns_errno, "unshare") if userns_errno else ladder.mount_rights(uid, gid)
    return HostProbe(
        kernel=os.uname().release,
        uid=uid,
        gid=gid,
        capabilities=permitted_set(),
        last_capability=int(Path("/proc/sys/kernel/cap_last_cap").read_text()),
        uid_map=uid_map,
        gid_map=gid_map,
        userns_errno=userns_errno,
        identity_errno=userns_errno or ladder.all_ids(uid_map, gid_map),
        mounts_errno=mount_rights.errno,
        mounts_call=mount_rights.call,
        idmapped_errno=userns_errno or ladder.id_mapped_mount(),
        subuid=ids.subordinate(SUBUID, uid, _account(uid)),
        subgid=ids.subordinate(SUBGID, uid, _account(uid)),
        newuidmap=ids.helpers_installed() and not prctl.get_no_new_privs(),
        landlock_abi=_landlock_abi(),
        nofile_hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        nr_open=int(Path("/proc/sys/fs/nr_open").read_text()),
        audit_errno=records.try_reading(),
        hierarchies=find(),
    )


def _account(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _landlock_abi() -> int:
    try:
        return landlock.abi_version()
    except OSError:
        return 0
