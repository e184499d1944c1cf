"""The system calls of a stock virtiofsd in our jail: which, with which arguments, and why.

There is one stage, from exec to the end. virtiofsd puts its own list over it once it has started; what that allows is
in here too, but where our jail has no use for it. Many calls are checked less than those of our own worker: one list is
for all its threads, and it names files where ours holds descriptors. docs/stock-virtiofsd.md compares the two.
"""

from __future__ import annotations

from virtiofs_sandbox.confine.calls import (
    ARCH_SET_FS,
    CLONE_A_THREAD,
    F_DUPFD_CLOEXEC,
    F_GETFL,
    F_SETFL,
    FALLOCATE_MODES,
    INT,
    KILLED,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MREMAP_MAYMOVE,
    O_CREAT,
    O_TMPFILE_BIT,
    PR_SET_NAME,
    PROT_EXEC,
    PROT_READ,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    S_IFIFO,
    S_IFREG,
    S_IFSOCK,
    WORD,
    Call,
    Group,
    Needs,
    Where,
    merged,
    of_kind,
    one_of,
    within,
)

# The descriptor that it accepts on (ipc/README.md).
WAITING = 3
# The bits of mmap's flags that say what kind a mapping is.
_MAP_TYPE = 0xF
# Where the C library keeps random numbers, from Linux 6.11 on.
_MAP_DROPPABLE = 8
CLONE_FS = 0x200
_F_DUPFD, _F_GETFD, _F_SETFD = 0, 1, 2
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_GET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 23, 24, 27, 38, 39
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_IS_SET = 47, 1
_NEW_LISTENER, _GET_NOTIF_SIZES = 8, 3
_NOT_EXECUTABLE = Where(2, 0, PROT_EXEC)
_KEPT = Where(0, INT)

ACCEPTING = Call(
    "accept4", "its client: the one call that waits for the supervisor's answer", (((Where(0, WAITING)),),)
)

_ALWAYS = (
    # The dynamic loader, the C library, the language's runtime.
    Call("arch_prctl", "thread pointer", one_of(0, ARCH_SET_FS)),
    Call("set_tid_address", "first thread"),
    Call("set_robust_list", "every thread"),
    Call("rseq", "every thread"),
    Call("access", "is there a file of libraries to load before all others"),
    Call("newfstatat", "directories of libraries for newer processors; xattr trick"),
    Call("fstat", "libraries, descriptors of its monitor"),
    Call("readlink", "is its shared directory behind a link"),
    Call("prlimit64", "reading its own limits", ((Where(0, 0), Where(2, 0, WORD)),)),
    Call("brk", "heap"),
    Call("munmap", "heap, guest memory"),
    Call("mremap", "heap", ((Where(3, MREMAP_MAYMOVE, WORD), Where(1, 0, WORD, differs=True)),)),
    Call(
        "mmap",
        "heap, stacks, guest memory, the dirty log; never shared without a file; executable only from a file, and not "
        "writable then",
        (
            (_NOT_EXECUTABLE, Where(3, MAP_PRIVATE, _MAP_TYPE)),
            (_NOT_EXECUTABLE, Where(3, _MAP_DROPPABLE, _MAP_TYPE)),
            (_NOT_EXECUTABLE, Where(3, 0, MAP_ANONYMOUS)),
            (Where(2, PROT_READ | PROT_EXEC, WORD), Where(3, MAP_PRIVATE, _MAP_TYPE | MAP_ANONYMOUS)),
        ),
    ),
    Call("mprotect", "read-only relocations, guard pages of stacks; never executable", ((_NOT_EXECUTABLE,),)),
    Call("madvise", "heap"),
    Call("membarrier", "threads of a pool"),
    Call("clone", "threads", ((Where(0, CLONE_A_THREAD, WORD),),)),
    Call("unshare", "a working directory and umask for each thread of a pool, and nothing else", one_of(0, CLONE_FS)),
    Call("futex", "locks"),
    Call("sched_getaffinity", "number of processors"),
    Call("sched_yield", "locks"),
    Call("getrandom", "seed of hash tables"),
    Call("rt_sigaction", "handlers of SIGTERM and SIGHUP, of stack overflows; SIGPIPE ignored"),
    Call("rt_sigprocmask", "signals wait while a thread starts"),
    Call("rt_sigreturn", "back from a handler"),
    Call("sigaltstack", "stack overflows"),
    Call("tgkill", "its own end, by abort(3)"),
    Call("tkill", "its own end, by abort(3)"),
    Call("getpid", "capabilities, log"),
    Call("gettid", "capabilities"),
    Call("restart_syscall", "calls interrupted by a stop signal"),
    Call("exit", "end of a thread"),
    Call("exit_group", "end of the process"),
    Call("clock_gettime", "time, where the vDSO cannot tell it"),
    Call("gettimeofday", "time, where the vDSO cannot tell it"),
    Call("time", "time, where the vDSO cannot tell it"),
    Call("clock_nanosleep", "waiting while device state is collected"),
    Call("poll", "are the first three descriptors there"),
    # Its own sandbox, as far as it is on in this jail.
    Call("geteuid", "does it have capabilities to drop; who creates"),
    Call("getegid", "who creates"),
    Call("getgroups", "does it have groups to drop"),
    Call("seccomp", "its own list; only ever tightens"),
    Call(
        "prctl",
        "what it holds, less of it, no_new_privs; names of threads",
        (
            *one_of(0, PR_SET_NAME, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_GET_SECUREBITS),
            *one_of(0, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS),
            (Where(0, _PR_CAP_AMBIENT), Where(1, _PR_CAP_AMBIENT_IS_SET, WORD)),
        ),
    ),
    Call("capget", "what it holds"),
    Call("capset", "less of it; FSETID off and on again around writes of a guest with HANDLE_KILLPRIV_V2"),
    Call("umask", "modes arrive as the guest sent them"),
    # Its monitor.
    ACCEPTING,
    Call("recvmsg", "messages of the monitor"),
    Call("sendmsg", "answers to the monitor"),
    Call("getsockopt", "newer releases: is the monitor's socket well"),
    Call("shutdown", "newer releases: the end of a connection"),
    Call("epoll_create1", "waiting for kicks"),
    Call("epoll_ctl", "waiting for kicks"),
    Call("epoll_wait", "waiting for kicks"),
    Call("epoll_pwait", "waiting for kicks"),
    Call("eventfd2", "wake-ups between threads"),
    Call("read", "libraries, kicks, its own state in /proc"),
    Call("write", "calls to the guest, log lines, device state"),
    Call("writev", "log lines"),
    Call("close", "descriptors"),
    Call("dup", "descriptors of rings; FLUSH closes a duplicate"),
    Call(
        "fcntl",
        "flags and duplicates of descriptors",
        one_of(1, _F_DUPFD, _F_GETFD, _F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC),
    ),
    # Names to objects.
    Call(
        "openat",
        "libraries and /proc; data access to an object held by an O_PATH descriptor; makes nothing",
        ((Where(2, 0, O_CREAT | O_TMPFILE_BIT),),),
    ),
    Call("openat2", "every open by name and CREATE, confined to the share's root"),
    Call("statx", "LOOKUP, GETATTR, READDIRPLUS"),
    Call("readlinkat", "READLINK; where an object is now, for device state"),
    Call("getdents64", "READDIR, READDIRPLUS"),
    Call("fstatfs", "STATFS; is its /proc one"),
    # Data.
    Call("pread64", "libraries"),
    Call("preadv", "READ"),
    Call("preadv2", "READ, newer releases"),
    Call("readv", "newer releases"),
    Call("lseek", "LSEEK, READDIR"),
    Call("fsync", "FSYNC, FSYNCDIR"),
    Call("fdatasync", "FSYNC with the data flag"),
    Call("syncfs", "SYNCFS"),
)
_WRITING = (
    Call("pwrite64", "WRITE"),
    Call("pwritev", "WRITE, newer releases"),
    Call("pwritev2", "WRITE"),
    Call("fallocate", "FALLOCATE", ((within(1, FALLOCATE_MODES),),)),
    Call("copy_file_range", "COPY_FILE_RANGE", one_of(5, 0)),
    Call("ftruncate", "SETATTR size"),
    Call("mkdirat", "MKDIR"),
    Call("mknodat", "MKNOD of files, FIFOs and sockets; no device", of_kind(2, S_IFREG, S_IFIFO, S_IFSOCK)),
    Call("symlinkat", "SYMLINK"),
    Call("linkat", "LINK of an object held by a descriptor"),
    Call("unlinkat", "UNLINK, RMDIR"),
    Call("renameat", "RENAME without flags"),
    Call("renameat2", "RENAME2", ((within(4, RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT),),)),
    Call("fchmod", "SETATTR mode by handle"),
    Call("fchmodat", "SETATTR mode of an object held by a descriptor"),
    Call("fchownat", "SETATTR owner"),
    Call("utimensat", "SETATTR times"),
)
_OWNERSHIP = (
    Call("setresuid", "creating for the calling uid; the effective id alone", ((_KEPT, Where(2, INT)),)),
    Call("setresgid", "creating for the calling gid; the effective id alone", ((_KEPT, Where(2, INT)),)),
    Call("setgroups", "creating for one supplementary group of the caller", one_of(0, 0, 1)),
)
_XATTR_READING = (
    Call("fchdir", "attributes of special files are reached from the directory of its descriptors"),
    Call("fgetxattr", "GETXATTR"),
    Call("flistxattr", "LISTXATTR"),
    Call("getxattr", "GETXATTR of a special file"),
    Call("listxattr", "LISTXATTR of a special file"),
)
_XATTR_WRITING = (
    Call("fsetxattr", "SETXATTR"),
    Call("fremovexattr", "REMOVEXATTR"),
    Call("setxattr", "SETXATTR of a special file"),
    Call("removexattr", "REMOVEXATTR of a special file"),
)

GROUPS = (
    Group("always", lambda _: True, _ALWAYS),
    Group("the share may be changed", lambda needs: needs.writing, _WRITING),
    Group("…, and its files belong to the calling users", lambda needs: needs.writing and needs.switching, _OWNERSHIP),
    Group("the share has extended attributes", lambda needs: needs.xattr, _XATTR_READING),
    Group("…, which may be changed", lambda needs: needs.xattr and needs.writing, _XATTR_WRITING),
)
# Deadly for ours, and what this program cannot do without: with other arguments than the listed ones they are refused.
_NEEDED = frozenset({"capset", "setresuid", "setresgid", "setgroups", "unshare"})
DEADLY = tuple(name for name in KILLED if name not in _NEEDED)


# Refused without a record by a program of their own, as the C library's clone3 is: libseccomp asks for every flag that
# there is, to see whether the kernel knows it. One that answers calls by another process is nobody's in here.
UNKNOWN = Call(
    "seccomp",
    "asking whether there may be a listener",
    ((Where(1, _NEW_LISTENER, _NEW_LISTENER),), (Where(0, _GET_NOTIF_SIZES),)),
)


def allowed(needs: Needs) -> tuple[Call, ...]:
    """What a share with these *needs* takes, each call once."""
    return merged(call for group in GROUPS if group.needed(needs) for call in group.calls)
