#!/usr/bin/env python3
"""Run a command where everything but one work directory is read-only.

Our tests send hostile names and rings to a daemon that may run as root, and a bug in it must not reach the
machine. This wrapper makes a private mount namespace, turns every mount in it read-only, puts the work directory
back writable, checks both, and executes the command with TMPDIR set to the work directory.

    python3 tests/guard.py [--work DIR] -- COMMAND [ARG ...]

Without --work a fresh directory below the system's temporary directory is used and removed afterwards.
/dev/shm, /dev/pts and control groups stay writable: guests' memory, terminals and limits live there. So does what
/proc has of processes, since a jail is built by writing to /proc/PID; its switches for the whole machine do not.
Needs CAP_SYS_ADMIN, or a user namespace of its own (taken when the caller is not root).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_RDONLY = 0x1
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
KEPT_WRITABLE = ("/dev/shm", "/dev/pts", "/sys/fs/cgroup", "/proc")
MACHINE_WIDE = ("/proc/acpi", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/scsi", "/proc/sys", "/proc/sysrq-trigger")
SPARE_PROCFS = ".procfs"
MS_RDONLY = 1

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def check(result: int, call: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise SystemExit(f"guard: {call}: {os.strerror(errno)}")
    return result


def clone_tree(path: str) -> int:
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE
    return check(libc.syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags), f"open_tree {path}")


def attach(tree: int, path: str) -> None:
    result = libc.syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(path), MOVE_MOUNT_F_EMPTY_PATH)
    check(result, f"move_mount {path}")
    os.close(tree)


def own_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        check(libc.unshare(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    check(libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount(MS_PRIVATE) /")


def read_only_but(work: str) -> None:
    kept = [path for path in (*KEPT_WRITABLE, work) if os.path.isdir(path)]
    trees = [(clone_tree(path), path) for path in kept]
    attr = MountAttr(attr_set=MOUNT_ATTR_RDONLY)
    result = libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attr), ctypes.sizeof(attr))
    check(result, "mount_setattr / read-only")
    for tree, path in trees:
        attach(tree, path)
    for path in MACHINE_WIDE:
        if os.path.exists(path):
            tree = clone_tree(path)
            result = libc.syscall(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, ctypes.byref(attr), ctypes.sizeof(attr))
            check(result, f"mount_setattr {path} read-only")
            attach(tree, path)


def spare_procfs(work: str) -> None:
    """A user namespace may mount a procfs only where it sees a whole one: /proc has read-only parts above it now."""
    target = os.path.join(work, SPARE_PROCFS)
    os.makedirs(target, exist_ok=True)
    check(libc.mount(b"proc", os.fsencode(target), b"proc", MS_RDONLY, None), f"mount procfs on {target}")


def verify(work: str) -> None:
    for path in ("/", "/etc", "/tmp", "/usr", "/var", "/root", "/proc/sys"):
        judged = os.path.isdir(path) and os.path.realpath(work) != os.path.realpath(path)
        if judged and not os.statvfs(path).f_flag & os.ST_RDONLY:
            raise SystemExit(f"guard: {path} is still writable: not running {sys.argv}")
    probe = os.path.join(work, ".guard")
    Path(probe).touch()
    os.unlink(probe)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command on a read-only machine with one writable directory.")
    parser.add_argument("--work", help="the directory that stays writable (default: a fresh one, removed afterwards)")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    work = os.path.realpath(options.work) if options.work else tempfile.mkdtemp(prefix="guard-")
    child = os.fork()
    if child == 0:
        own_namespace()
        read_only_but(work)
        if os.geteuid() == 0:
            spare_procfs(work)
        verify(work)
        os.chdir(os.getcwd())
        os.environ["TMPDIR"] = work
        os.execvp(options.command[0], options.command)
    _, status = os.waitpid(child, 0)
    if not options.work:
        shutil.rmtree(work, ignore_errors=True)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main())
