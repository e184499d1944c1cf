"""Namespaces to throw away for scenarios that take a jail's layers off: what gets through reaches these and no further.

Below tests/guard.py, which has made everything but the work directory read-only. The hostile calls of an attempt can
change the host name, System V memory, the network and the processes of these namespaces only.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

from virtiofs_sandbox.syscalls import mounts, processes

NAMESPACES = (
    processes.CLONE_NEWNS
    | processes.CLONE_NEWPID
    | processes.CLONE_NEWNET
    | processes.CLONE_NEWIPC
    | processes.CLONE_NEWUTS
    | processes.CLONE_NEWCGROUP
)
# A jail numbers its processes from 1 on: with numbers from here on nobody outside is taken for one inside.
FIRST_PID = 20_000
# One switch is left writable, for attempts to open: in a UTS namespace of our own it is about nobody else.
OWN_SWITCH = b"/proc/sys/kernel/hostname"
MACHINE_WIDE = ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger")
SIOCSIFFLAGS = 0x8914
INTERFACE_UP = 1


def seclude() -> None:
    """Returns in a grandchild within new namespaces; the process that called ends with its exit status. Needs root."""
    processes.unshare(NAMESPACES)
    _relay(os.fork())
    mounts.make_all_private()
    _own_procfs()
    _loopback_up()
    # This is the first process: when it ends, so does every other.
    _relay(os.fork())


def _relay(child: int) -> None:
    """In the parent of *child*: waits for it, reaping whoever else was left behind, and ends as it did."""
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            sys.stdout.flush()
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _own_procfs() -> None:
    """Mounts the procfs of the new pid namespace, its switches read-only but for one."""
    mounts.attach(mounts.new_filesystem(b"proc", (), 0), b"/proc")
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(FIRST_PID))
    switch = mounts.clone_tree(OWN_SWITCH, False)
    for name in MACHINE_WIDE:
        path = b"/proc/" + name.encode()
        if os.path.exists(path):
            tree = mounts.clone_tree(path, False)
            mounts.restrict_tree(tree, mounts.MOUNT_ATTR_RDONLY)
            mounts.attach(tree, path)
    mounts.attach(switch, OWN_SWITCH)
    if not os.statvfs("/proc/sys/vm").f_flag & os.ST_RDONLY:
        raise SystemExit("seclusion: /proc/sys is still writable")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        fcntl.ioctl(line, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", INTERFACE_UP))
