"""The system calls of a jail: who makes which, with which arguments, and why. `seccomp` compiles them.

There are two stages. The first is put on by the launcher and lasts from exec to the end: all that start-up needs and
all that any role needs later. The second is put on by each role itself once start-up is over: the keeper, which waits;
the control thread, which speaks with supervisor and monitor; the queue threads, which answer the guest. A later program
can only take away, so a thread's calls are those of its role.

Arguments are compared as the kernel sees them: `int` arguments in their lower 32 bits, all others whole.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

LOG, CONTROL_SOCKET, SHARE, PROC, BINARY = 2, 3, 7, 8, 9
EVENT_BYTES = 8
INT = 0xFFFFFFFF
WORD = 0xFFFFFFFFFFFFFFFF

AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH = (
    0x100,
    0x200,
    0x400,
    0x800,
    0x1000,
)
AT_HANDLE_FID = 0x200
O_CREAT, O_TRUNC, O_CLOEXEC, O_TMPFILE_BIT = 0x40, 0x200, 0x80000, 0x400000
S_IFMT, S_IFREG, S_IFIFO, S_IFSOCK = 0o170000, 0o100000, 0o010000, 0o140000
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE = 0x1, 0x2, 0x20, 0x4000
MREMAP_MAYMOVE = 1
MADV_DONTDUMP = 16
SIGCHLD, SIGKILL = 17, 9
SIGPIPE, SIGBUS, SIGSYS = 13, 7, 31
# What the C library keeps to itself, for changes of ids in all threads; installed with the first thread.
SIGSETXID = 33
CLONE_FILES = 0x400
# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: what pthread_create passes.
CLONE_A_THREAD = 0x3D0F00
ARCH_SET_FS = 0x1002
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG = 1, 2
F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GET_SEALS = 3, 4, 1030, 1034
# FUTEX_WAIT, FUTEX_WAKE and FUTEX_WAIT_BITSET of this process alone: no requeueing, no priority inheritance.
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE = 128, 129, 137
SOL_SOCKET, SO_TYPE, SO_DOMAIN = 1, 3, 39
MSG_DONTWAIT, MSG_NOSIGNAL, MSG_CMSG_CLOEXEC = 0x40, 0x4000, 0x40000000
SEEK_SET, SEEK_DATA, SEEK_HOLE = 0, 3, 4
RWF_APPEND = 0x10
# KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE.
FALLOCATE_MODES = 0x7B
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
XATTR_CREATE, XATTR_REPLACE = 1, 2
XATTR_ARGS_BYTES = 16


class Role(enum.Enum):
    KEEPER = "keeper"
    CONTROL = "control"
    QUEUE = "queue"


@dataclass(frozen=True)
class Where:
    """Argument *index* (0 to 5), masked with *mask*, equals *value*; or, with *differs* and no mask, is another."""

    index: int
    value: int
    mask: int = INT
    differs: bool = False

    def holds(self, arguments: tuple[int, ...]) -> bool:
        return (arguments[self.index] & self.mask == self.value) is not self.differs


Form = tuple[Where, ...]


@dataclass(frozen=True)
class Call:
    """One allowed system call. With *forms*, only where every condition of one of them holds."""

    name: str
    reason: str
    forms: tuple[Form, ...] = ()

    def allows(self, arguments: tuple[int, ...]) -> bool:
        return not self.forms or any(all(where.holds(arguments) for where in form) for form in self.forms)


@dataclass(frozen=True)
class Needs:
    """What of the table a share needs. *switching*: what guests create belongs to the calling user, not to the worker.

    *attributes*: as in the launch plan.
    """

    writing: bool = True
    xattr: bool = True
    switching: bool = True
    attributes: Literal["path", "open"] = "path"


@dataclass(frozen=True)
class Group:
    """Calls that some shares need and others do not; *when* says in words what *needed* decides."""

    when: str
    needed: Callable[[Needs], bool]
    calls: tuple[Call, ...]


def one_of(index: int, *values: int) -> tuple[Form, ...]:
    """One form per value of an `int` argument."""
    return tuple((Where(index, value),) for value in values)


def within(index: int, bits: int) -> Where:
    """No bit of an `int` argument beyond *bits*."""
    return Where(index, 0, INT & ~bits)


def of_kind(index: int, *kinds: int) -> tuple[Form, ...]:
    return tuple((Where(index, kind, S_IFMT),) for kind in kinds)


def _mapping(protection: int, flags: int) -> Form:
    return (Where(2, protection, WORD), Where(3, flags, WORD))


_NOT_EXECUTABLE = Where(2, 0, PROT_EXEC)
_LOG_LINES: Form = (Where(0, LOG),)
_EVENTS: Form = (Where(2, EVENT_BYTES, WORD),)
_AN_EMPTY_PATH = (Where(4, AT_EMPTY_PATH),)


def execveat(key: int) -> Call:
    """The one start of the worker.

    *key*, a secret of 64 bits, stands in the sixth argument, which the kernel itself ignores. Nobody in the jail can
    know it: registers are cleared by exec, and a filter is not readable from inside. So the jail executes once.
    """
    form = (Where(0, BINARY), Where(4, AT_EMPTY_PATH), Where(5, key, WORD))
    return Call("execveat", "starts the worker, once", (form,))


# Start-up: from the filter to the second stage. What a role goes on needing stands in the role's table as well.
START = (
    # The C library and the language's runtime.
    Call("arch_prctl", "thread pointer", one_of(0, ARCH_SET_FS)),
    Call("set_tid_address", "first thread"),
    Call("set_robust_list", "every thread"),
    Call("rseq", "every thread"),
    Call("rt_sigprocmask", "signals wait while a thread starts"),
    Call("readlink", "own path, which does not exist here"),
    Call("getrandom", "seed of the allocator"),
    Call(
        "mmap",
        "stacks, arena, statistics page; never executable, never shared without a file",
        (
            (_NOT_EXECUTABLE, Where(3, MAP_PRIVATE | MAP_ANONYMOUS, MAP_PRIVATE | MAP_SHARED | MAP_ANONYMOUS)),
            (_NOT_EXECUTABLE, Where(3, 0, MAP_ANONYMOUS)),
        ),
    ),
    Call("mprotect", "read-only relocations, guard pages of stacks; never executable", ((_NOT_EXECUTABLE,),)),
    Call(
        "clone",
        "the worker on the keeper's descriptor table; one thread per queue",
        ((Where(0, CLONE_A_THREAD, WORD),), (Where(0, CLONE_FILES | SIGCHLD, WORD),)),
    ),
    # The launcher's last report.
    Call("write", "the launcher reports that the filters are on, or why the binary cannot be run"),
    # Keeper and worker.
    Call(
        "rt_sigaction",
        "handlers of SIGBUS and SIGSYS, SIGPIPE ignored; the C library's own before the first thread",
        one_of(0, SIGPIPE, SIGBUS, SIGSYS, SIGSETXID),
    ),
    Call("getpid", "the keeper as the worker's parent"),
    Call("getppid", "did the keeper die before the worker was tied to it"),
    Call(
        "prctl",
        "names of threads; the worker ends with its keeper",
        ((Where(0, PR_SET_NAME),), (Where(0, PR_SET_PDEATHSIG), Where(1, SIGKILL, WORD))),
    ),
    Call("prlimit64", "reading one's own limit of descriptors", ((Where(0, 0), Where(2, 0, WORD)),)),
    Call("umask", "modes arrive as the guest sent them"),
    Call("setfsuid", "which uid a queue thread has", ((Where(0, INT),),)),
    Call("setfsgid", "which gid a queue thread has", ((Where(0, INT),),)),
    Call("eventfd2", "wake-ups between threads"),
    Call("fstat", "kinds of inherited descriptors"),
    Call("fstatfs", "is the inherited procfs one"),
    Call("statx", "inherited mounts, sizes of inherited memory", one_of(2, AT_EMPTY_PATH)),
    Call("getsockopt", "kind of the control socket", ((Where(1, SOL_SOCKET), Where(2, SO_TYPE)),
                                                    (Where(1, SOL_SOCKET), Where(2, SO_DOMAIN)))),
    Call("fcntl", "flags and seals of what was handed over, duplicates",
         one_of(1, F_GETFL, F_GET_SEALS, F_DUPFD_CLOEXEC)),
    Call("pread64", "the configuration"),
    Call(
        "seccomp",
        "the second stage of each role; only ever tightens",
        ((Where(0, SECCOMP_SET_MODE_FILTER), Where(1, SECCOMP_FILTER_FLAG_LOG)),),
    ),
)  # fmt: skip

KEEPER = (
    Call("wait4", "the worker's end", ((Where(2, 0), Where(3, 0, WORD)),)),
    Call("write", "why waiting failed", (_LOG_LINES,)),
    Call("restart_syscall", "calls interrupted by a stop signal"),
    Call("exit_group", "reporting how the worker ended"),
)

# What control and queue threads have in common.
_THREAD = (
    Call("restart_syscall", "calls interrupted by a stop signal"),
    Call("exit_group", "end of the process"),
    Call(
        "futex",
        "locks",
        one_of(1, FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE),
    ),
    Call("brk", "heap"),
    Call("munmap", "heap, guest memory"),
    # An old size of 0 would make a second mapping of shared memory; other flags choose the address.
    Call("mremap", "heap", ((Where(3, MREMAP_MAYMOVE, WORD), Where(1, 0, WORD, differs=True)),)),
    Call("clock_gettime", "time, where the vDSO cannot tell it"),
    Call("ppoll", "waiting for kicks, plans and sockets; with the signals there are", ((Where(3, 0, WORD),),)),
    Call("read", "events", (_EVENTS,)),
    Call("write", "events, log lines", (_EVENTS, _LOG_LINES)),
    Call("close", "descriptors"),
    Call(
        "sendto",
        "LEAVING, to the supervisor and to no address",
        ((Where(0, CONTROL_SOCKET), within(3, MSG_DONTWAIT | MSG_NOSIGNAL), Where(4, 0, WORD)),),
    ),
)
# Where refusals trap, the one signal handler that returns.
SIGNAL_RETURN = Call("rt_sigreturn", "back from the handler that reports a refusal, where refusals trap")

_HEAP = _mapping(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
_GUEST_MEMORY = _mapping(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE)

CONTROL = (
    *_THREAD,
    Call("mmap", "heap, guest memory; never executable, never shared without a file", (_HEAP, _GUEST_MEMORY)),
    Call("madvise", "guest memory stays out of dumps", one_of(2, MADV_DONTDUMP)),
    Call("recvmsg", "messages of monitor and supervisor", one_of(2, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)),
    Call("sendmsg", "answers to the monitor, reports to the supervisor", one_of(2, MSG_DONTWAIT | MSG_NOSIGNAL)),
    Call("getsockopt", "kind of a socket that was handed over", ((Where(1, SOL_SOCKET), Where(2, SO_TYPE)),
                                                              (Where(1, SOL_SOCKET), Where(2, SO_DOMAIN)))),
    Call("fstat", "size and kind of guest memory's file, size of live settings"),
    Call("pread64", "live settings"),
    Call("statx", "the share's root, when a device that was reset begins anew",
         ((Where(0, SHARE), Where(2, AT_EMPTY_PATH)),)),
    Call("readlinkat", "is a received descriptor an eventfd"),
    Call("fcntl", "received descriptors never block; seals of live settings", one_of(1, F_GETFL, F_SETFL, F_GET_SEALS)),
)  # fmt: skip

_QUEUE = (
    *_THREAD,
    Call("mmap", "heap; never executable, never shared", (_HEAP,)),
    # Names to objects.
    Call("openat2", "every open by name, confined to one component"),
    Call(
        "openat",
        "data access to an object held by an O_PATH descriptor, through procfs; makes and empties nothing",
        ((Where(0, PROC), Where(2, O_CLOEXEC, O_CLOEXEC | O_CREAT | O_TRUNC | O_TMPFILE_BIT)),),
    ),
    Call(
        "statx",
        "LOOKUP, GETATTR, READDIRPLUS, identity checks; follows nothing",
        one_of(2, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, AT_EMPTY_PATH),
    ),
    Call(
        "name_to_handle_at",
        "identity where inode numbers are reused quickly",
        ((within(4, AT_EMPTY_PATH | AT_HANDLE_FID),),),
    ),
    Call("readlinkat", "READLINK"),
    Call("getdents64", "READDIR, READDIRPLUS"),
    Call("fstatfs", "STATFS"),
    # Data.
    Call("preadv2", "READ", one_of(5, 0)),
    Call("lseek", "LSEEK, READDIR", one_of(2, SEEK_SET, SEEK_DATA, SEEK_HOLE)),
    Call("fcntl", "FLUSH closes a duplicate", one_of(1, F_DUPFD_CLOEXEC)),
    Call("fsync", "FSYNC, FSYNCDIR"),
    Call("fdatasync", "FSYNC with the data flag"),
    Call("syncfs", "SYNCFS"),
)
_WRITING = (
    Call("pwritev2", "WRITE", one_of(5, 0, RWF_APPEND)),
    Call("fallocate", "FALLOCATE", ((within(1, FALLOCATE_MODES),),)),
    Call("copy_file_range", "COPY_FILE_RANGE", one_of(5, 0)),
    Call("ftruncate", "SETATTR size, OPEN with O_TRUNC"),
    Call("mkdirat", "MKDIR"),
    Call("mknodat", "MKNOD of files, FIFOs and sockets; no device", of_kind(2, S_IFREG, S_IFIFO, S_IFSOCK)),
    Call("symlinkat", "SYMLINK"),
    Call("linkat", "LINK of an object held by a descriptor", ((Where(0, PROC), Where(4, AT_SYMLINK_FOLLOW)),)),
    Call("unlinkat", "UNLINK, RMDIR", one_of(2, 0, AT_REMOVEDIR)),
    Call(
        "renameat2",
        "RENAME, RENAME2",
        ((within(4, RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT),),),
    ),
)
_OWNERSHIP = (
    Call("setfsuid", "a guest's files belong to the calling uid"),
    Call("setfsgid", "a guest's files belong to the calling gid"),
)
_ATTRIBUTES_BY_PATH = (
    Call("fchmodat", "SETATTR mode of an object held by a descriptor", one_of(0, PROC)),
    Call("fchownat", "SETATTR owner of an object held by a descriptor", (_AN_EMPTY_PATH,)),
    Call("utimensat", "SETATTR times of an object held by a descriptor", one_of(3, AT_EMPTY_PATH)),
)
_ATTRIBUTES_BY_OPENING = (
    Call("fchmod", "SETATTR mode of a file opened for it"),
    Call("fchown", "SETATTR owner of a file opened for it"),
    Call("utimensat", "SETATTR times of a file opened for it", ((Where(1, 0, WORD), Where(3, 0)),)),
)
_XATTR_READING = (
    Call("fgetxattr", "GETXATTR of an open file"),
    Call("flistxattr", "LISTXATTR of an open file"),
)
_XATTR_WRITING = (
    Call("fsetxattr", "SETXATTR of an open file", ((within(4, XATTR_CREATE | XATTR_REPLACE),),)),
    Call("fremovexattr", "REMOVEXATTR of an open file"),
)
_XATTR_READING_BY_PATH = (
    Call(
        "getxattrat",
        "GETXATTR of an object held by a descriptor",
        ((Where(0, PROC), Where(2, 0), Where(5, XATTR_ARGS_BYTES, WORD)),),
    ),
    Call("listxattrat", "LISTXATTR of an object held by a descriptor", ((Where(0, PROC), Where(2, 0)),)),
)
_XATTR_WRITING_BY_PATH = (
    Call(
        "setxattrat",
        "SETXATTR of an object held by a descriptor",
        ((Where(0, PROC), Where(2, 0), Where(5, XATTR_ARGS_BYTES, WORD)),),
    ),
    Call("removexattrat", "REMOVEXATTR of an object held by a descriptor", ((Where(0, PROC), Where(2, 0)),)),
)

QUEUE = (
    Group("always", lambda _: True, _QUEUE),
    Group("the share may be changed", lambda needs: needs.writing, _WRITING),
    Group("…, and its files belong to the calling users", lambda needs: needs.writing and needs.switching, _OWNERSHIP),
    Group(
        "…, and the jail has mounts of its own",
        lambda needs: needs.writing and needs.attributes == "path",
        _ATTRIBUTES_BY_PATH,
    ),
    Group(
        "…, and the jail has no mounts of its own",
        lambda needs: needs.writing and needs.attributes == "open",
        _ATTRIBUTES_BY_OPENING,
    ),
    Group("the share has extended attributes", lambda needs: needs.xattr, _XATTR_READING),
    Group("…, which may be changed", lambda needs: needs.xattr and needs.writing, _XATTR_WRITING),
    Group(
        "it has them, and the jail has mounts of its own",
        lambda needs: needs.xattr and needs.attributes == "path",
        _XATTR_READING_BY_PATH,
    ),
    Group(
        "…, and they may be changed",
        lambda needs: needs.xattr and needs.attributes == "path" and needs.writing,
        _XATTR_WRITING_BY_PATH,
    ),
)

# Nothing honest makes these, and each is a known way out, a way to more rights, or a kernel attack surface of its own.
KILLED = (
    # Other processes.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    # Mounts, roots and namespaces.
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "setns", "unshare", "swapon", "swapoff", "quotactl", "quotactl_fd",
    # Programs and memory handed to the kernel.
    "bpf", "userfaultfd", "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "lookup_dcookie", "modify_ldt",
    # Files by handle: any inode of the file system, whatever the path.
    "open_by_handle_at",
    # Keys, credentials and the machine as a whole.
    "add_key", "request_key", "keyctl", "capset", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid",
    "setgroups", "personality", "acct", "reboot", "sethostname", "setdomainname", "settimeofday", "clock_settime",
    "clock_adjtime", "adjtimex", "iopl", "ioperm", "syslog", "vhangup", "nfsservctl", "uselib", "execve",
)  # fmt: skip
# Start-up needs these; afterwards nothing honest does.
KILLED_LATER = ("seccomp", "execveat")

# Calls newer than the libseccomp of Debian 12 (2.5.4), by number.
NEWER_NUMBERS = {
    "fchmodat2": 452,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
}


def steady(role: Role, needs: Needs) -> tuple[Call, ...]:
    """What *role* may call once start-up is over, each call once."""
    match role:
        case Role.KEEPER:
            return KEEPER
        case Role.CONTROL:
            return CONTROL
        case Role.QUEUE:
            return tuple(call for group in QUEUE if group.needed(needs) for call in group.calls)


def union(needs: Needs) -> tuple[Call, ...]:
    """What the first stage allows: start-up and every role."""
    return merged((*START, *(call for role in Role for call in steady(role, needs))))


def merged(table: Iterable[Call]) -> tuple[Call, ...]:
    """Each call once, with the forms of all its entries, or none where one of them has none."""
    by_name: dict[str, list[Call]] = {}
    for call in table:
        by_name.setdefault(call.name, []).append(call)
    return tuple(
        Call(
            name,
            "; ".join(dict.fromkeys(call.reason for call in calls)),
            tuple(dict.fromkeys(form for call in calls for form in call.forms)) if all(c.forms for c in calls) else (),
        )
        for name, calls in by_name.items()
    )
