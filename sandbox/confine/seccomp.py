"""The system calls of a jailed worker: an allow-list, each entry with its reason, compiled to a BPF program.

Three answers. Listed: allowed, where the arguments match. Dangerous: the process is killed, since nothing honest ever
makes that call. All the rest: EPERM, and a record in the kernel's log. One program serves keeper and worker alike.
"""

from __future__ import annotations

import errno
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtiofs_sandbox.syscalls.mounts import AT_EMPTY_PATH
from virtiofs_sandbox.syscalls.processes import SECCOMP_FILTER_FLAG_LOG

if TYPE_CHECKING:
    import pyseccomp

# What seccomp(2) gets beside the program: denials by errno are logged too.
FLAGS = SECCOMP_FILTER_FLAG_LOG

BINARY_DESCRIPTOR = 9
S_IFMT, S_IFREG, S_IFIFO, S_IFSOCK = 0o170000, 0o100000, 0o010000, 0o140000
SIGCHLD, SIGKILL = 17, 9
CLONE_FILES = 0x400
# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: what pthread_create passes.
CLONE_A_THREAD = 0x3D0F00
PROT_EXEC = 4
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
F_GETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GET_SEALS = 1, 3, 4, 1030, 1034
MADV_DONTNEED, MADV_FREE, MADV_DONTDUMP = 4, 8, 16


@dataclass(frozen=True)
class Where:
    """Argument *index* (0 to 5), masked with *mask*, equals *value*."""

    index: int
    value: int
    mask: int = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True)
class Call:
    """One allowed system call. With *forms*, only where every condition of one of them holds."""

    name: str
    reason: str
    forms: tuple[tuple[Where, ...], ...] = ()


def one_of(index: int, *values: int) -> tuple[tuple[Where, ...], ...]:
    return tuple((Where(index, value),) for value in values)


def without(index: int, bits: int) -> tuple[tuple[Where, ...], ...]:
    return ((Where(index, 0, bits),),)


def of_kind(index: int, *kinds: int) -> tuple[tuple[Where, ...], ...]:
    return tuple((Where(index, kind, S_IFMT),) for kind in kinds)


# Calls that the C library, the language's runtime and the step from filter to worker make by themselves.
RUNTIME = (
    Call("arch_prctl", "start-up: thread pointer", one_of(0, 0x1002)),
    Call("set_tid_address", "start-up"),
    Call("set_robust_list", "start-up of a thread"),
    Call("rseq", "start-up of a thread"),
    Call("prlimit64", "reading one's own limits: stack, descriptors", ((Where(0, 0), Where(2, 0)),)),
    Call("readlink", "start-up: own path, which does not exist here"),
    Call("getrandom", "seeds of hash tables and of the allocator"),
    Call("brk", "heap"),
    Call("mmap", "heap, stacks, guest memory; never executable", without(2, PROT_EXEC)),
    Call("mprotect", "read-only relocations, guard pages; never executable", without(2, PROT_EXEC)),
    Call("munmap", "heap, stacks, guest memory"),
    Call("mremap", "heap"),
    Call("madvise", "heap; guest memory stays out of dumps", one_of(2, MADV_DONTNEED, MADV_FREE, MADV_DONTDUMP)),
    Call("clone", "threads; the keeper's child", one_of(0, CLONE_A_THREAD, CLONE_FILES | SIGCHLD)),
    Call("futex", "locks"),
    Call("rt_sigaction", "signal handlers"),
    Call("rt_sigprocmask", "signal handlers, thread start"),
    Call("rt_sigreturn", "signal handlers"),
    Call("gettid", "abort, thread start"),
    Call("getpid", "abort"),
    Call("tgkill", "abort"),
    Call("restart_syscall", "calls interrupted by a stop signal"),
    Call("exit", "end of a thread"),
    Call("exit_group", "end of the process"),
    Call(
        "fcntl",
        "descriptor flags, duplicates, seals of what was handed over",
        one_of(1, F_GETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GET_SEALS),
    ),
    Call("read", "events, messages"),
    Call("write", "events, log lines"),
    Call("close", "descriptors"),
    Call("clock_gettime", "time, where the vDSO cannot tell it"),
    Call("sendto", "reports and messages on connected sockets; without an address", one_of(4, 0)),
)

# Calls that a line in the worker's sources makes. Kept equal to the marker lines there by a test.
WORKER = (
    # Rings, sockets and the supervisor.
    Call("recvmsg", "messages of monitor and supervisor, with descriptors"),
    Call("sendmsg", "answers to the monitor"),
    Call("getsockopt", "the kind of a socket that was handed over"),
    Call("ppoll", "waiting for kicks and sockets"),
    Call("eventfd2", "wake-ups between threads"),
    Call(
        "prctl",
        "thread names; a worker ends with its keeper",
        ((Where(0, PR_SET_NAME),), (Where(0, PR_SET_PDEATHSIG), Where(1, SIGKILL))),
    ),
    Call("getppid", "did the keeper die before that was armed"),
    Call("wait4", "the keeper waits for the worker"),
    # Names to objects.
    Call("openat2", "every open by name, confined to one component"),
    Call("openat", "data access to an object held by an O_PATH descriptor, through procfs"),
    Call("statx", "LOOKUP, GETATTR, READDIRPLUS, identity checks"),
    Call("fstat", "kind of an inherited descriptor"),
    Call("name_to_handle_at", "identity where inode numbers are reused quickly"),
    Call("readlinkat", "READLINK"),
    Call("getdents64", "READDIR, READDIRPLUS"),
    Call("fstatfs", "STATFS; kind of an inherited mount"),
    # Data.
    Call("preadv2", "READ"),
    Call("pread64", "the configuration"),
    Call("pwritev2", "WRITE"),
    Call("lseek", "LSEEK, READDIR"),
    Call("fallocate", "FALLOCATE"),
    Call("copy_file_range", "COPY_FILE_RANGE"),
    Call("ftruncate", "SETATTR size, OPEN with O_TRUNC"),
    Call("fsync", "FSYNC, FSYNCDIR"),
    Call("fdatasync", "FSYNC with the data flag"),
    Call("syncfs", "SYNCFS"),
    # Creating, changing, removing.
    Call("mkdirat", "MKDIR"),
    Call("mknodat", "MKNOD of files, FIFOs and sockets; no device", of_kind(2, S_IFREG, S_IFIFO, S_IFSOCK)),
    Call("symlinkat", "SYMLINK"),
    Call("linkat", "LINK"),
    Call("unlinkat", "UNLINK, RMDIR"),
    Call("renameat2", "RENAME, RENAME2"),
    Call("fchmodat", "SETATTR mode"),
    Call("fchownat", "SETATTR owner"),
    Call("fchmod", "SETATTR mode of an open file, where there are no mounts"),
    Call("fchown", "SETATTR owner of an open file, where there are no mounts"),
    Call("utimensat", "SETATTR times"),
    Call("umask", "modes arrive as the guest sent them"),
    Call("setfsuid", "a guest's files belong to the calling uid"),
    Call("setfsgid", "a guest's files belong to the calling gid"),
    # Extended attributes: of open files, and without opening where the kernel can.
    Call("fgetxattr", "GETXATTR"),
    Call("fsetxattr", "SETXATTR"),
    Call("flistxattr", "LISTXATTR"),
    Call("fremovexattr", "REMOVEXATTR"),
    Call("getxattrat", "GETXATTR"),
    Call("setxattrat", "SETXATTR"),
    Call("listxattrat", "LISTXATTR"),
    Call("removexattrat", "REMOVEXATTR"),
)

# Nothing honest makes these, and each is a known way out, a way to more rights, or a kernel attack surface of its own.
KILLED = (
    # Other processes.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    # Mounts, roots and namespaces.
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "setns", "unshare", "swapon", "swapoff", "quotactl", "quotactl_fd",
    # Programs and memory handed to the kernel.
    "bpf", "userfaultfd", "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register", "seccomp",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "lookup_dcookie", "modify_ldt",
    # Files by handle: any inode of the file system, whatever the path.
    "open_by_handle_at",
    # Keys, credentials and the machine as a whole.
    "add_key", "request_key", "keyctl", "capset", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid",
    "setgroups", "personality", "acct", "reboot", "sethostname", "setdomainname", "settimeofday", "clock_settime",
    "clock_adjtime", "adjtimex", "iopl", "ioperm", "syslog", "vhangup", "nfsservctl", "uselib", "execve",
)  # fmt: skip

# Calls newer than the libseccomp of Debian 12 (2.5.4), by number.
NEWER_NUMBERS = {
    "fchmodat2": 452,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
}


def execveat(key: int) -> Call:
    """The one start of the worker.

    *key*, a secret of 64 bits, stands in the sixth argument, which the kernel itself ignores. Nobody in the jail can
    know it: registers are cleared by exec, and a filter is not readable from inside. So the jail executes once.
    """
    form = (Where(0, BINARY_DESCRIPTOR), Where(4, AT_EMPTY_PATH), Where(5, key))
    return Call("execveat", "starts the worker, once", (form,))


def program(key: int, *, fatal: bool = False) -> bytes:
    """Compiles the table: an array of struct sock_filter, as seccomp(2) takes it. Takes about a millisecond.

    Only execveat(2) with *key* as its sixth argument executes anything. With *fatal* whatever is not listed kills, so
    that a test notices what a worker would only have been refused.

    pyseccomp is imported here and not at the top: it may start a compiler to find its library, which must never
    happen in the zygote or in a jail.
    """
    import pyseccomp  # noqa: PLC0415

    compiled = pyseccomp.SyscallFilter(pyseccomp.KILL_PROCESS if fatal else pyseccomp.ERRNO(errno.EPERM))
    # The default would only kill the thread that switched to another calling convention.
    compiled.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    # Not for the worker: the other program says ENOSYS, and the stricter of two answers counts.
    compiled.add_rule(pyseccomp.ALLOW, "clone3")
    for name in () if fatal else KILLED:
        compiled.add_rule(pyseccomp.KILL_PROCESS, name)
    for call in (*RUNTIME, *WORKER, execveat(key)):
        for form in call.forms or ((),):
            conditions = [pyseccomp.Arg(w.index, pyseccomp.MASKED_EQ, w.mask, w.value) for w in form]
            compiled.add_rule(pyseccomp.ALLOW, NEWER_NUMBERS.get(call.name, call.name), *conditions)
    return _exported(compiled)


def unlogged_program() -> bytes:
    """The program for refusals that are no news: it is loaded beside the other one, without FLAGS.

    The flags of clone3 are behind a pointer, where no filter sees them. Refused with ENOSYS, the C library takes clone
    instead; it tries anew for every thread, and a log record of each would drown the ones that matter.
    """
    import pyseccomp  # noqa: PLC0415

    compiled = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    compiled.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    compiled.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    return _exported(compiled)


def _exported(compiled: pyseccomp.SyscallFilter) -> bytes:
    with tempfile.TemporaryFile() as file:
        compiled.export_bpf(file)
        file.seek(0)
        return file.read()
