"""Namespaces, descriptors, seccomp and exec: what the standard library of Python 3.11 has no call for."""

from __future__ import annotations

import ctypes

from virtiofs_sandbox.syscalls.base import checked, declare, declare_number
from virtiofs_sandbox.syscalls.mounts import AT_EMPTY_PATH

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_LOG = 2
SOCK_FILTER_BYTES = 8
LAST_DESCRIPTOR = 0xFFFFFFFF


SIGNALS = 64


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


class _KernelSigaction(ctypes.Structure):
    """struct kernel_sigaction; all zero is SIG_DFL."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("handler", "flags", "restorer", "mask")]


_unshare = declare("unshare", ctypes.c_int)
_setns = declare("setns", ctypes.c_int, ctypes.c_int)
_rt_sigaction = declare_number(
    13, ctypes.c_int, ctypes.POINTER(_KernelSigaction), ctypes.POINTER(_KernelSigaction), ctypes.c_size_t
)
_seccomp = declare_number(317, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(_SockFprog))
_execveat = declare_number(
    322,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.c_int,
    ctypes.c_uint64,
)
_close_range = declare_number(436, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)


def unshare(flags: int) -> None:
    """Moves this process (for CLONE_NEWPID: its next child) into new namespaces."""
    checked(_unshare(flags), "unshare")


def enter(namespace: int, kind: int) -> None:
    """Moves this process into the *namespace* behind a descriptor, which must be of the *kind* CLONE_NEW*."""
    checked(_setns(namespace, kind), "setns")


def close_from(first: int) -> None:
    """Closes every descriptor from *first* on."""
    checked(_close_range(first, LAST_DESCRIPTOR, 0), "close_range")


def default_signal(number: int) -> None:
    """Gives signal *number* its default action, also one of the two that the C library keeps to itself (32 and 33).

    The mask has as many bits as there are signals. rt_sigaction(2).
    """
    checked(_rt_sigaction(number, ctypes.byref(_KernelSigaction()), None, SIGNALS // 8), "rt_sigaction")


def load_seccomp(program: bytes, flags: int) -> None:
    """Puts a classic BPF *program* (struct sock_filter, 8 bytes each) before every system call of this thread.

    Needs no_new_privs, or CAP_SYS_ADMIN in the user namespace.
    """
    seccomp(SECCOMP_SET_MODE_FILTER, flags, program)


def seccomp(operation: int, flags: int, program: bytes) -> int:
    """seccomp(2) with a classic BPF *program*."""
    prog = _SockFprog(len(program) // SOCK_FILTER_BYTES, program)
    return checked(_seccomp(operation, flags, ctypes.byref(prog)), "seccomp")


def execute_descriptor(binary: int, arguments: tuple[bytes, ...], key: int) -> None:
    """Replaces this process by the file behind *binary*, with an empty environment. Returns only by raising.

    *key* is passed beyond the call's own arguments: the kernel ignores it, a seccomp filter sees it.
    """
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    envp = (ctypes.c_char_p * 1)(None)
    checked(_execveat(binary, b"", argv, envp, AT_EMPTY_PATH, key), "execveat")


def clear_errno() -> None:
    """Forgets the errno that ctypes keeps for this thread, for callees that judge by it instead of by the result."""
    ctypes.set_errno(0)
