"""Landlock rights of a jail. The second wall: it bounds what can be opened, should the mounts let a path through.

It does not cover stat, chmod, chown, extended attributes, times, or descriptors opened before. Where a jail has no
mounts of its own it is the only wall around what can be opened, with the same rights: the share's directory and the
binary have a rule each, and nothing of /proc has one.

A share's access decides, not its path rules: those may change while the worker runs, and a domain never grows.
"""

from __future__ import annotations

from landlock import FSAccess
from virtiofs_sandbox.confine.plan import LandlockPlan
from virtiofs_sandbox.policies.share import Access

FIRST = (
    FSAccess.EXECUTE
    | FSAccess.WRITE_FILE
    | FSAccess.READ_FILE
    | FSAccess.READ_DIR
    | FSAccess.REMOVE_DIR
    | FSAccess.REMOVE_FILE
    | FSAccess.MAKE_CHAR
    | FSAccess.MAKE_DIR
    | FSAccess.MAKE_REG
    | FSAccess.MAKE_SOCK
    | FSAccess.MAKE_FIFO
    | FSAccess.MAKE_BLOCK
    | FSAccess.MAKE_SYM
)
# Rights a share never grants: nothing in it is run, no device is made in it or spoken to. FIFOs and sockets are: MKNOD.
NEVER_GRANTED = FSAccess.EXECUTE | FSAccess.MAKE_CHAR | FSAccess.MAKE_BLOCK | FSAccess.IOCTL_DEV
READ = FSAccess.READ_FILE | FSAccess.READ_DIR
BINARY = FSAccess.EXECUTE | FSAccess.READ_FILE

BIND_AND_CONNECT_TCP = 0b11
SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
# Denials after exec are recorded only with this flag.
RESTRICT_SELF_LOG_NEW_EXEC_ON = 2

# ABI -> what it brought, for the sentence about a kernel that lacks it. What the second brought is not open before it,
# but forbidden whatever a rule grants.
BROUGHT = {
    2: "renaming between directories (guests get EXDEV)",
    3: "truncation",
    4: "TCP",
    5: "device ioctls",
    6: "abstract sockets and signals",
    7: "denial records",
}
REFER_ABI, TRUNCATE_ABI, TCP_ABI, IOCTL_ABI, SCOPE_ABI, LOG_ABI = BROUGHT
NEWEST_ABI = max(BROUGHT)


def handled(abi: int) -> FSAccess:
    """Every file system right that a kernel of this *abi* can take away."""
    rights = FIRST
    if abi >= REFER_ABI:
        rights |= FSAccess.REFER
    if abi >= TRUNCATE_ABI:
        rights |= FSAccess.TRUNCATE
    if abi >= IOCTL_ABI:
        rights |= FSAccess.IOCTL_DEV
    return rights


def plan(access: Access, abi: int) -> LandlockPlan:
    """The masks for a share of this *access* on a kernel of this *abi*, 1 or more."""
    everything = handled(abi)
    granted = READ if access is Access.READ_ONLY else everything & ~NEVER_GRANTED
    return LandlockPlan(
        handled_fs=int(everything),
        handled_net=BIND_AND_CONNECT_TCP if abi >= TCP_ABI else 0,
        scoped=SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if abi >= SCOPE_ABI else 0,
        share_rights=int(granted),
        binary_rights=int(BINARY),
        restrict_flags=RESTRICT_SELF_LOG_NEW_EXEC_ON if abi >= LOG_ABI else 0,
    )


def shortfall(abi: int) -> str | None:
    """The sentence about what this *abi* lacks; None if it lacks nothing we use."""
    if abi == 0:
        return (
            "Landlock is not available: the empty root, the mounts and seccomp hold alone; "
            "start the kernel with landlock in its lsm= list to add it"
        )
    missing = [what for since, what in BROUGHT.items() if since > abi]
    if not missing:
        return None
    return f"Landlock ABI {abi} of this kernel does not cover {', '.join(missing)}; ABI {NEWEST_ABI} does"
