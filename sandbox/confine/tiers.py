"""Which tier a host allows, and what a lower one loses."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.policies.share import Tier


class CannotConfineError(Exception):
    """No such jail can be built on this host; str() is one sentence: which layer is missing, and what to change."""


@dataclass(frozen=True)
class Standing:
    """The tier a host allows, and the first rung above it that failed: what the system said, and what would help.

    *failed* is None exactly for FULL.
    """

    tier: Tier
    failed: str | None


def standing(host: HostProbe) -> Standing:
    """Raises CannotConfineError where not even Landlock would hold."""
    below = _no_mounts(host)
    if below is None:
        failed = _few_ids(host) or _no_landlock(host)
        return Standing(Tier.USERNS if failed else Tier.FULL, failed)
    if not host.landlock_abi:
        raise CannotConfineError(
            f"no jail can be built here: {below}; and Landlock, which would then have to hold alone, is not available: "
            "start the kernel with landlock in its lsm= list"
        )
    return Standing(Tier.BARE, below)


def admit(reached: Standing, minimum: Tier) -> None:
    """Raises CannotConfineError where the host stays below the policy's minimum (I7)."""
    if reached.tier.rank > minimum.rank:
        raise CannotConfineError(
            f'this host allows the tier "{reached.tier.value}", and sandbox.minimum is "{minimum.value}": '
            f'{reached.failed}; or admit it by sandbox.minimum = "{reached.tier.value}"'
        )


def losses(reached: Standing, *, readonly: bool) -> tuple[str, ...]:
    """What BARE does without, a sentence each. What USERNS lacks, ids or Landlock, is said where that is decided."""
    if reached.tier is not Tier.BARE:
        return ()
    sentences = [
        "no namespaces and no mounts of its own: Landlock and seccomp alone keep the worker in the share, "
        f"and do not hide that other files exist, nor their attributes; {reached.failed}"
    ]
    if readonly:
        sentences.append(
            "read-only is held by Landlock and by the worker, not by a mount: nothing can be written, but reading "
            "moves the access times of files that belong to somebody else"
        )
    return tuple(sentences)


def _no_mounts(host: HostProbe) -> str | None:
    if host.userns_errno:
        said = os.strerror(host.userns_errno)
        return f"no user namespace can be made ({said}); {_userns_hint(host.userns_errno)}"
    if host.mounts_errno:
        said = os.strerror(host.mounts_errno)
        return (
            f"a user namespace can be made, but has no right to mounts in it ({host.mounts_call}: {said}); "
            f"{_mounts_hint(host)}"
        )
    return None


def _userns_hint(number: int) -> str:
    if number == errno.ENOSPC:
        return "raise user.max_user_namespaces, which is exhausted or 0"
    return (
        "leave the chroot, allow unshare in the container's seccomp profile, "
        "or allow it by kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns"
    )


def _mounts_hint(host: HostProbe) -> str:
    if host.mounts_errno == errno.ENOSPC:
        return "raise user.max_mnt_namespaces and its like, one of which is exhausted or 0"
    if host.mounts_call == "fsmount(procfs)":
        return "unmask /proc, of which a container covers parts"
    if host.mounts_call == "pivot_root":
        return "leave the chroot, or make the root directory a mount of its own"
    return (
        "allow mount, fsopen, open_tree, move_mount, mount_setattr and pivot_root in the container's seccomp profile, "
        "or lift kernel.apparmor_restrict_unprivileged_userns"
    )


def _few_ids(host: HostProbe) -> str | None:
    if not host.identity_errno:
        return None
    said = os.strerror(host.identity_errno)
    return (
        f"uid {host.uid} may not map all ids into a user namespace ({said}); "
        "run as root with CAP_SETUID, CAP_SETGID and CAP_SETFCAP"
    )


def _no_landlock(host: HostProbe) -> str | None:
    if host.landlock_abi:
        return None
    return "Landlock is not available; start the kernel with landlock in its lsm= list"
