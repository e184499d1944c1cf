"""What crosses between the processes of a launch: fixed records, and the names of their numbers.

RECORD is ipc/README.md's launch report, little-endian u32: stage, call, errno. In an ANSWER of the zygote to the
supervisor, and of the intermediate to the zygote, the number of the request (for the latter 0) goes before it and the
keeper's pid as the outside sees it (or 0) after it; in one about an adjustment, the place of the change that failed.
A REQUEST to the zygote begins with its number and its kind.
"""

from __future__ import annotations

import enum
import struct

RECORD = struct.Struct("<III")
ANSWER = struct.Struct("<IIIII")
REQUEST = struct.Struct("<IB")
LAUNCH, ADJUST = range(2)
GO = b"g"
ALIVE = b"a"
MAPPED = b"m"


class Stage(enum.IntEnum):
    """The steps of a launch, in order, and what may be done to a jail after it."""

    REQUEST = 0
    LIMITS = 1
    USER_NAMESPACE = 2
    IDENTITY = 3
    NAMESPACES = 4
    PARENT = 5
    MOUNTS = 6
    ROOT = 7
    DESCRIPTORS = 8
    CAPABILITIES = 9
    LANDLOCK = 10
    SECCOMP = 11
    EXEC = 12
    ADJUST = 13


CALLS = (
    "",
    "unknown call",
    "open(cgroup.procs)",
    "write(cgroup.procs)",
    "write(oom_score_adj)",
    "open(oom_score_adj)",
    "setrlimit(RLIMIT_NOFILE)",
    "unshare",
    "write(setgroups)",
    "write(uid_map)",
    "write(gid_map)",
    "fork",
    "setsid",
    "rt_sigaction",
    "setgroups",
    "prctl(PR_SET_PDEATHSIG)",
    "read(go)",
    "read(alive)",
    "mount",
    "open_tree(share)",
    "open_tree(worker)",
    "open_tree(/dev/null)",
    "mount_setattr",
    "fsopen",
    "fsconfig",
    "fsmount",
    "move_mount",
    "fchdir",
    "pivot_root",
    "umount2",
    "chdir",
    "open(/dev/null)",
    "fcntl(F_DUPFD)",
    "dup2",
    "close_range",
    "prctl(PR_CAPBSET_DROP)",
    "prctl(PR_SET_SECUREBITS)",
    "prctl(PR_CAP_AMBIENT_RAISE)",
    "prctl(PR_SET_NO_NEW_PRIVS)",
    "capset",
    "read(status)",
    "compare(capabilities)",
    "compare(securebits)",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    "seccomp",
    "compare(parent-death signal)",
    "execveat",
    "send(request)",
    "receive(answer)",
    "openat2",
    "setns",
    "mount_setattr(MOUNT_ATTR_IDMAP)",
    "setrlimit",
    "setrlimit(RLIMIT_NPROC)",
    "setresgid",
    "setresuid",
    "newuidmap",
    "newgidmap",
    "open(user namespace)",
    "send(mounts)",
    "receive(mounts)",
    "open(share)",
    "open(worker)",
    "open(/proc)",
    "mkdir",
    "mknod",
    "rmdir",
    "open(namespace)",
    "compare(namespace)",
    "open(nr_open)",
    "write(nr_open)",
    "open_tree",
    "socket",
    "open(program)",
    "sendmsg(listener)",
)
"""Names of the calls that a launch makes; their places in this tuple are their numbers in the record."""

_NUMBERS = {name: number for number, name in enumerate(CALLS)}
_UNKNOWN = _NUMBERS["unknown call"]


def call_number(name: str) -> int:
    return _NUMBERS.get(name, _UNKNOWN)


def call_name(number: int) -> str:
    """The name behind a number that another process sent; any number is taken."""
    return CALLS[number] if number < len(CALLS) else CALLS[_UNKNOWN]
