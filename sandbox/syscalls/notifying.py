"""System calls of another process that wait for our answer: seccomp_unotify(2), and the few bytes of the answer.

Notifications are looked for by poll(2) first: receiving one that is not there would block.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
from dataclasses import dataclass

from virtiofs_sandbox.syscalls.base import SyscallError, checked, declare, named
from virtiofs_sandbox.syscalls.processes import SECCOMP_SET_MODE_FILTER, seccomp

SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_ADDFD = 0x40182103
# Linux 5.14: the call that waits returns the number of the descriptor.
SECCOMP_ADDFD_FLAG_SEND = 2


class _SeccompData(ctypes.Structure):
    _fields_ = [
        ("nr", ctypes.c_int),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
    ]


class _Notification(ctypes.Structure):
    """struct seccomp_notif; all zero when it is handed to the kernel."""

    _fields_ = [
        ("id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("data", _SeccompData),
    ]


class _AddDescriptor(ctypes.Structure):
    """struct seccomp_notif_addfd."""

    _fields_ = [
        ("id", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("srcfd", ctypes.c_uint32),
        ("newfd", ctypes.c_uint32),
        ("newfd_flags", ctypes.c_uint32),
    ]


class _Piece(ctypes.Structure):
    """struct iovec, of ourselves or of the other process."""

    _fields_ = [("base", ctypes.c_uint64), ("length", ctypes.c_size_t)]


_process_vm_writev = declare(
    "process_vm_writev",
    ctypes.c_int,
    ctypes.POINTER(_Piece),
    ctypes.c_ulong,
    ctypes.POINTER(_Piece),
    ctypes.c_ulong,
    ctypes.c_ulong,
)


@dataclass(frozen=True)
class WaitingCall:
    """A system call that waits: *number* and *arguments* as they were made; *key* names it to the kernel."""

    key: int
    number: int
    arguments: tuple[int, ...]


def load_asking(program: bytes) -> int:
    """Loads a seccomp *program* whose SECCOMP_RET_USER_NOTIF calls wait; the descriptor by which they are answered."""
    return seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, program)


def take(listener: int) -> WaitingCall | None:
    """The next call that waits, or None when there is none; never blocks. Raises SyscallError."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    if not any(events & select.POLLIN for _, events in poll.poll(0)):
        return None
    notification = _Notification()
    named("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", fcntl.ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, notification)
    return WaitingCall(notification.id, notification.data.nr, tuple(notification.data.args))


def answer_with_descriptor(listener: int, call: WaitingCall, descriptor: int) -> None:
    """The *call* returns a copy of *descriptor*, close-on-exec. SyscallError(ENOENT) if nobody waits any more."""
    added = _AddDescriptor(id=call.key, flags=SECCOMP_ADDFD_FLAG_SEND, srcfd=descriptor, newfd_flags=os.O_CLOEXEC)
    named("ioctl(SECCOMP_IOCTL_NOTIF_ADDFD)", fcntl.ioctl, listener, SECCOMP_IOCTL_NOTIF_ADDFD, added)


def write_memory(pid: int, address: int, content: bytes) -> None:
    """Writes *content* at *address* of process *pid*, where that process may write itself. Raises SyscallError."""
    buffer = ctypes.create_string_buffer(content, len(content))
    local = _Piece(ctypes.addressof(buffer), len(content))
    remote = _Piece(address, len(content))
    written = checked(_process_vm_writev(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0), "process_vm_writev")
    if written != len(content):
        raise SyscallError(0, "process_vm_writev")
