"""From a share and a host to a launch plan."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from virtiofs_sandbox.confine import capabilities, ids, landlock, seccomp
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.policies.share import Access, Share, Tier
from virtiofs_sandbox.syscalls import mounts

WANTED_DESCRIPTORS = 1_000_000
# Below this a guest with many open files notices: handles and pinned inodes cost a descriptor each.
FEW_DESCRIPTORS = 16_384


class CannotConfineError(Exception):
    """No jail can be built on this host; str() is one sentence that says which layer is missing and what to change."""


def prepare(share: Share, host: HostProbe, *, worker: Path, end_with_supervisor: bool = True) -> LaunchPlan:
    """Settles every number of the launch. A layer this host lacks is refused here or named in `warnings` (I7).

    *worker* is the static binary to run. With *end_with_supervisor* the jail is killed when its supervisor dies.
    Raises CannotConfineError.
    """
    tier, tier_warning = _tier(host)
    nofile, nofile_warning = _nofile(host)
    seccomp_warning = seccomp.shortfall(share.sandbox.seccomp)
    warnings = (tier_warning, nofile_warning, landlock.shortfall(host.landlock_abi), seccomp_warning)
    full = tier is Tier.FULL
    needs = seccomp.needs(share, ids="caller" if full else "self", attributes="path")
    refusal = seccomp.refusal(share.sandbox.seccomp, recorded=not host.audit_errno)
    exec_key = secrets.randbits(64)
    return LaunchPlan(
        share=share.name,
        source=os.fsencode(_source(share)),
        worker=os.fsencode(worker.absolute()),
        tier=tier,
        ids="caller" if full else "self",
        warnings=tuple(sentence for sentence in warnings if sentence),
        uid_map=ids.identity(host.uid_map) if full else ids.single(host.uid, host.uid),
        gid_map=ids.identity(host.gid_map) if full else ids.single(host.gid, host.gid),
        deny_setgroups=not full,
        share_attributes=_share_attributes(share),
        nofile=nofile,
        capabilities=capabilities.kept(share, tier),
        last_capability=host.last_capability,
        securebits=capabilities.SECUREBITS,
        landlock=landlock.plan(share.access, host.landlock_abi) if host.landlock_abi else None,
        seccomp=seccomp.program(exec_key, needs, refusal),
        seccomp_flags=seccomp.FLAGS,
        seccomp_unlogged=seccomp.unlogged_program(),
        exec_key=exec_key,
        filters=seccomp.role_programs(needs, refusal),
        attributes="path",
        end_with_supervisor=end_with_supervisor,
    )


def _source(share: Share) -> Path:
    if share.source is None:
        raise CannotConfineError("shares of several directories cannot be built yet")
    return share.source.absolute()


def _tier(host: HostProbe) -> tuple[Tier, str | None]:
    if host.userns_errno:
        raise CannotConfineError(
            f"no user namespace can be made here: {os.strerror(host.userns_errno)}; {_userns_hint(host.userns_errno)}"
        )
    if not host.identity_errno:
        return Tier.FULL, None
    if host.uid != 0:
        return Tier.USERNS, None
    return Tier.USERNS, (
        "root here may not map its ids into a user namespace "
        f"({os.strerror(host.identity_errno)}): files that guests create all belong to uid {host.uid}; "
        "grant CAP_SETUID, CAP_SETGID and CAP_SETFCAP to keep the guests' ids"
    )


def _userns_hint(number: int) -> str:
    if number == errno.ENOSPC:
        return "raise user.max_user_namespaces, which is exhausted or 0"
    return (
        "leave the chroot, allow unshare in the container's seccomp profile, "
        "or allow it by kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns"
    )


def _share_attributes(share: Share) -> int:
    """No symbolic link of the share is ever followed by the kernel: guests follow links themselves."""
    attributes = (
        mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC | mounts.MOUNT_ATTR_NOSYMFOLLOW
    )
    if share.access is Access.READ_ONLY:
        attributes |= mounts.MOUNT_ATTR_RDONLY
    return attributes


def _nofile(host: HostProbe) -> tuple[tuple[int, int], str | None]:
    """RLIMIT_NOFILE, soft and hard: what is wanted where we may raise it, else the hard limit that there is."""
    may_raise = bool(host.capabilities & capabilities.mask(capabilities.Capability.SYS_RESOURCE))
    hard = max(host.nofile_hard, min(WANTED_DESCRIPTORS, host.nr_open)) if may_raise else host.nofile_hard
    if hard >= FEW_DESCRIPTORS:
        return (hard, hard), None
    return (hard, hard), (
        f"open files are limited to {hard}: a guest that keeps more open gets ENFILE; "
        f"raise the hard limit (LimitNOFILE= or ulimit -Hn) to {FEW_DESCRIPTORS} or more"
    )
