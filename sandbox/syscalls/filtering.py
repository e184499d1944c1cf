"""What the kernel says of seccomp(2) and io_uring_setup(2) before anything depends on them."""

from __future__ import annotations

import ctypes

from virtiofs_sandbox.syscalls.base import checked, declare_number

SECCOMP_GET_ACTION_AVAIL = 2
# Actions of seccomp(2), from the strictest to the mildest.
ACTIONS = {
    "kill_process": 0x80000000,
    "kill_thread": 0x00000000,
    "trap": 0x00030000,
    "errno": 0x00050000,
    "user_notif": 0x7FC00000,
    "trace": 0x7FF00000,
    "log": 0x7FFC0000,
    "allow": 0x7FFF0000,
}
# BPF_RET | BPF_K with SECCOMP_RET_ALLOW: a program that changes nothing.
ALLOW_EVERYTHING = (0x06).to_bytes(2, "little") + b"\0\0" + ACTIONS["allow"].to_bytes(4, "little")
_IO_URING_PARAMS_BYTES = 120

_seccomp_asks = declare_number(317, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint32))
_io_uring_setup = declare_number(425, ctypes.c_uint, ctypes.c_char_p)


def action_available(action: int) -> None:
    """Raises SyscallError(EOPNOTSUPP) for an *action* that this kernel does not know."""
    value = ctypes.c_uint32(action)
    checked(_seccomp_asks(SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(value)), "seccomp(SECCOMP_GET_ACTION_AVAIL)")


def new_ring() -> int:
    """The descriptor of a small io_uring. Raises SyscallError(EPERM) where they are switched off."""
    parameters = ctypes.create_string_buffer(_IO_URING_PARAMS_BYTES)
    return checked(_io_uring_setup(4, parameters), "io_uring_setup")
