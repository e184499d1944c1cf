"""Namespaces, id maps and mounts: what the tiers are made of. Judged by the launcher's own probe where it has one."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from virtiofs_sandbox.confine import ladder
from virtiofs_sandbox.confine.features.feature import (
    Answer,
    Probe,
    by_errno,
    missing,
    refused,
    restricted,
    there,
    unknown,
)
from virtiofs_sandbox.confine.features.reading import number
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.syscalls import processes

_SYSCTLS = Path("/proc/sys")
_USERNS_LOST = "tier bare at best: no namespaces, no mounts of the jail's own, no empty root"
_NAMES = {
    "CLONE_NEWNS": "mount",
    "CLONE_NEWPID": "pid",
    "CLONE_NEWNET": "network",
    "CLONE_NEWIPC": "ipc",
    "CLONE_NEWUTS": "uts",
    "CLONE_NEWCGROUP": "cgroup",
}
# The calls of the launcher's own try, in their order, and the feature each belongs to.
_MOUNT_CALLS = {
    "mount": "mount-clone",
    "open_tree": "mount-clone",
    "mount_setattr": "mount-attributes",
    "fsmount(procfs)": "own-procfs",
    "fsmount(tmpfs)": "own-root",
    "move_mount": "own-root",
    "pivot_root": "own-root",
    "umount2": "own-root",
}
_MOUNTS_LOST = "tier userns: no mounts of the jail's own, no empty root, no read-only mount; bare at best"
_MOUNTS_REMEDY = "a container or AppArmor profile that allows mounts in a user namespace"
_RANGE_LOST = "as an ordinary user, identity.map = range: only the caller's own id can be mapped"
_HELPERS = ("newuidmap", "newgidmap")


def probes(host: HostProbe) -> tuple[Probe, ...]:
    def probe(key: str, name: str, attempt: Callable[[], Answer], lost: str, remedy: str) -> Probe:
        return Probe("namespaces", key, name, attempt, lost, remedy)

    return (
        probe(
            "user-namespace", "user namespace", lambda: by_errno(host.userns_errno, "unshare(CLONE_NEWUSER)"),
            _USERNS_LOST,
            "leave the chroot; allow unshare in the container's seccomp profile; see the sysctls below",
        ),
        probe(
            "identity-map", "all our ids mapped to themselves",
            lambda: by_errno(host.identity_errno, "write(uid_map)"),
            "tier full: files that guests create do not keep the guest's uid and gid",
            "run as root with CAP_SETUID, CAP_SETGID and CAP_SETFCAP",
        ),
        *(
            probe(
                f"{name}-namespace", f"{name} namespace", _tried(ladder.NAMESPACES[flag]),
                _USERNS_LOST,
                "a higher user.max_*_namespaces; a container profile that allows unshare",
            )
            for flag, name in _NAMES.items()
        ),
        probe(
            "mount-clone", "open_tree in a user namespace", lambda: _mounts(host, "mount-clone"),
            _MOUNTS_LOST, _MOUNTS_REMEDY,
        ),
        probe(
            "mount-attributes", "mount_setattr in a user namespace", lambda: _mounts(host, "mount-attributes"),
            _MOUNTS_LOST, _MOUNTS_REMEDY,
        ),
        probe(
            "own-procfs", "procfs with subset=pid of our own", lambda: _mounts(host, "own-procfs"),
            _MOUNTS_LOST, f"a /proc with nothing mounted over it; {_MOUNTS_REMEDY}",
        ),
        probe(
            "own-root", "an empty root of our own", lambda: _mounts(host, "own-root"), _MOUNTS_LOST, _MOUNTS_REMEDY,
        ),
        probe(
            "idmapped-mounts", "id-mapped mounts", lambda: by_errno(host.idmapped_errno, "mount_setattr(IDMAP)"),
            "identity.idmapped = true: files stored with the guest's own ids",
            "root with CAP_SYS_ADMIN in the first user namespace, Linux 5.12 and a file system that supports it",
        ),
        probe(
            "subuid", "subordinate uids granted to us", lambda: _granted(host.subuid),
            _RANGE_LOST, "usermod --add-subuids 100000-165535 NAME",
        ),
        probe(
            "subgid", "subordinate gids granted to us", lambda: _granted(host.subgid),
            _RANGE_LOST, "usermod --add-subgids 100000-165535 NAME",
        ),
        probe(
            "unprivileged-userns", "kernel.unprivileged_userns_clone",
            lambda: _at_least(_SYSCTLS / "kernel/unprivileged_userns_clone", 1),
            f"without root: {_USERNS_LOST}", "sysctl kernel.unprivileged_userns_clone=1",
        ),
        probe(
            "apparmor-userns", "kernel.apparmor_restrict_unprivileged_userns",
            lambda: _at_most(_SYSCTLS / "kernel/apparmor_restrict_unprivileged_userns", 0),
            f"without root: {_USERNS_LOST}",
            "an AppArmor profile with `userns,` for virtiofs-sandbox, or sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        *(
            probe(
                helper, f"{helper} with the right to map", _helper(helper),
                _RANGE_LOST,
                "install uidmap (Debian) or shadow-utils",
            )
            for helper in _HELPERS
        ),
    )  # fmt: skip


def _mounts(host: HostProbe, key: str) -> Answer:
    """The launcher stops at the first refusal: what comes after it was not tried."""
    if not host.mounts_call:
        return there("tried in a user namespace")
    calls = list(_MOUNT_CALLS)
    reached = calls.index(host.mounts_call) if host.mounts_call in calls else -1
    if reached >= 0 and _MOUNT_CALLS[host.mounts_call] == key:
        return refused(host.mounts_errno, host.mounts_call)
    if reached > max(place for place, call in enumerate(calls) if _MOUNT_CALLS[call] == key):
        return there("tried in a user namespace")
    return unknown(f"not reached: {refused(host.mounts_errno, host.mounts_call).said}")


def _granted(ranges: tuple[tuple[int, int], ...]) -> Answer:
    if not ranges:
        return missing("none")
    return there(", ".join(f"{count} from {first} on" for first, count in ranges))


def _tried(flag: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        processes.unshare(processes.CLONE_NEWUSER | flag)
        return there("made in a user namespace")

    return attempt


def _at_least(sysctl: Path, wanted: int) -> Answer:
    value = number(sysctl)
    if value is None:
        return there("no such setting here") if not sysctl.exists() else unknown("cannot be read")
    return there(str(value)) if value >= wanted else restricted(str(value))


def _at_most(sysctl: Path, wanted: int) -> Answer:
    value = number(sysctl)
    if value is None:
        return there("no such setting here") if not sysctl.exists() else unknown("cannot be read")
    return there(str(value)) if value <= wanted else restricted(str(value))


def _helper(name: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
        if found is None:
            return missing("not found")
        if Path(found).stat().st_mode & stat.S_ISUID or "security.capability" in os.listxattr(found):
            return there(found)
        return restricted(f"{found} is neither set-user-ID nor has file capabilities")

    return attempt
