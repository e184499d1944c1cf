"""Which capabilities a share needs. In the jail's user namespace they reach mapped ids and visible files only."""

from __future__ import annotations

import enum
from typing import Literal

from virtiofs_sandbox.policies.share import Access, Share


class Capability(enum.IntEnum):
    """Numbers of capability.h, those a worker may keep and those whose absence is judged."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    FSETID = 4
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    SYS_RESOURCE = 24
    MKNOD = 27
    SETFCAP = 31


# The guest's kernel checks permissions; the worker must be able to do what the guest's root may. DAC_READ_SEARCH is
# never among them: with it open_by_handle_at(2) reaches every inode of the share's file system.
_READ = (Capability.DAC_OVERRIDE,)
_WRITE = (*_READ, Capability.FOWNER, Capability.FSETID)
# Creating as the calling uid and gid takes setfsuid(2) and setfsgid(2); a map of one id has nobody to change to.
_WRITE_AS_CALLER = (*_WRITE, Capability.CHOWN, Capability.SETGID, Capability.SETUID)

# securebits.h: root means nothing, ids change without changing capabilities, keep-caps is off, the ambient set cannot
# grow; all of it for ever. The worker changes its file system ids on every creating call and must keep its rights.
NOROOT, NOROOT_LOCKED = 1 << 0, 1 << 1
NO_SETUID_FIXUP, NO_SETUID_FIXUP_LOCKED = 1 << 2, 1 << 3
KEEP_CAPS_LOCKED = 1 << 5
NO_CAP_AMBIENT_RAISE, NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 6, 1 << 7
SECUREBITS = (
    NOROOT
    | NOROOT_LOCKED
    | NO_SETUID_FIXUP
    | NO_SETUID_FIXUP_LOCKED
    | KEEP_CAPS_LOCKED
    | NO_CAP_AMBIENT_RAISE
    | NO_CAP_AMBIENT_RAISE_LOCKED
)


def kept(share: Share, ids: Literal["caller", "self"]) -> int:
    """The mask of capabilities that a worker of *share* keeps in a user namespace of its own; *ids* as in the plan."""
    if share.access is Access.READ_ONLY:
        return mask(*_READ)
    if ids == "self":
        return mask(*_WRITE)
    if share.xattr:
        return mask(*_WRITE_AS_CALLER, Capability.SETFCAP)
    return mask(*_WRITE_AS_CALLER)


def mask(*capabilities: int) -> int:
    return sum(1 << capability for capability in capabilities)


# Why a worker keeps it; `explain` says so.
REASONS = {
    Capability.CHOWN: "chown by the guest, and files that are created for the calling gid",
    Capability.DAC_OVERRIDE: "the guest's kernel has checked permissions already; its root reads and writes all",
    Capability.FOWNER: "chmod and utimes by the guest on files that are not the worker's own",
    Capability.FSETID: "chmod keeps the set-group-ID bit that the guest asks for",
    Capability.SETGID: "creating for the calling gid: setfsgid(2)",
    Capability.SETUID: "creating for the calling uid: setfsuid(2)",
    Capability.SETPCAP: "a stock virtiofsd drops what it does not want, this one with it, before it has a client",
    Capability.SETFCAP: "the guest stores file capabilities: the attribute security.capability",
}
