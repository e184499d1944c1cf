"""Landlock rulesets with network rights and scopes, which the landlock package cannot make.

The package adds the rules and enforces them; only what lies outside its structures is here.
"""

from __future__ import annotations

import ctypes

from virtiofs_sandbox.syscalls.base import checked, declare_number

LANDLOCK_CREATE_RULESET_VERSION = 1


class _RulesetAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("handled_access_fs", "handled_access_net", "scoped")]


_create_ruleset = declare_number(444, ctypes.POINTER(_RulesetAttr), ctypes.c_size_t, ctypes.c_uint32)


def abi_version() -> int:
    """The kernel's Landlock ABI, from 1. Raises SyscallError(ENOSYS or EOPNOTSUPP) where there is none."""
    return checked(_create_ruleset(None, 0, LANDLOCK_CREATE_RULESET_VERSION), "landlock_create_ruleset")


def create_ruleset(handled_fs: int, handled_net: int, scoped: int) -> int:
    """Returns the descriptor of an empty ruleset, close-on-exec.

    Trailing zero words are left out, so that a kernel that does not know them accepts the size.
    """
    attr = _RulesetAttr(handled_fs, handled_net, scoped)
    words = 3 if scoped else 2 if handled_net else 1
    return checked(_create_ruleset(ctypes.byref(attr), 8 * words, 0), "landlock_create_ruleset")
