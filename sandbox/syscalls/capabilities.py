"""Capability sets and securebits, where python-prctl stops.

It knows no ambient set, refuses the NO_CAP_AMBIENT_RAISE bits and every capability newer than the headers it was built
with, and changes the other sets one flag at a time.
"""

from __future__ import annotations

import ctypes

from virtiofs_sandbox.syscalls.base import checked, declare

PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_LOW_WORD = 0xFFFFFFFF


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


_capget = declare("capget", ctypes.POINTER(_Header), ctypes.POINTER(_Data))
_capset = declare("capset", ctypes.POINTER(_Header), ctypes.POINTER(_Data))
_prctl = declare("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def permitted_set() -> int:
    """The permitted capabilities of this thread, bit N for capability N."""
    data = (_Data * 2)()
    checked(_capget(ctypes.byref(_Header(_LINUX_CAPABILITY_VERSION_3, 0)), data), "capget")
    return int(data[0].permitted) | int(data[1].permitted) << 32


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Replaces three sets of this thread at once; bit N stands for capability N."""
    low = _Data(effective & _LOW_WORD, permitted & _LOW_WORD, inheritable & _LOW_WORD)
    high = _Data(effective >> 32, permitted >> 32, inheritable >> 32)
    data = (_Data * 2)(low, high)
    checked(_capset(ctypes.byref(_Header(_LINUX_CAPABILITY_VERSION_3, 0)), data), "capset")


def drop_bounding(capability: int) -> None:
    checked(_prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl(PR_CAPBSET_DROP)")


def raise_ambient(capability: int) -> None:
    """Lets *capability* survive exec of a file without capabilities; it must be permitted and inheritable."""
    checked(_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0), "prctl(PR_CAP_AMBIENT_RAISE)")


def set_securebits(bits: int) -> None:
    checked(_prctl(PR_SET_SECUREBITS, bits, 0, 0, 0), "prctl(PR_SET_SECUREBITS)")
