"""What the kernel says to system calls below seccomp programs, without any of them being carried out.

A child loads a program of its own first, which answers every call but two by an errno that nobody else uses, and then
the programs to be judged. Of two answers by errno the later one counts, and every answer is stricter than "allowed": so
a call that the judged programs let pass gets that errno, and one that they refuse gets their own answer.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import gc
import mmap
import os
import signal
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import prctl
from virtiofs_sandbox.syscalls import processes

PASSED = errno.EBADFD
# An argument of an attempt that no call of this module's own has.
BOGUS = 0x5A5A_5A5A_5A5A_5A5A
_SECCOMP, _EXIT_GROUP = 317, 231
# Offsets in struct seccomp_data; of arguments, the lower half.
_NUMBER, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 16, 32
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_UNDECIDED = 0xFFFFFFFF
_ARGUMENTS = 6


@dataclass(frozen=True)
class Attempt:
    """System call *number* of x86_64 with six arguments."""

    number: int
    arguments: tuple[int, ...] = (0,) * _ARGUMENTS


@dataclass(frozen=True)
class Verdict:
    """*errno*, or death by *signal*; passed where both are 0."""

    errno: int = 0
    signal: int = 0


def verdicts(programs: Sequence[bytes], attempts: Sequence[Attempt]) -> list[Verdict]:
    """One verdict per attempt, below all of *programs*, loaded in their order. Refusals by several are recorded."""
    answers = mmap.mmap(-1, 4 * max(1, len(attempts)))
    words = (ctypes.c_uint32 * len(attempts)).from_buffer(answers)
    for index in range(len(attempts)):
        words[index] = _UNDECIDED
    found: list[Verdict] = []
    while len(found) < len(attempts):
        status = _in_a_child(programs, attempts, len(found), words)
        while len(found) < len(attempts) and words[len(found)] != _UNDECIDED:
            found.append(Verdict(0 if words[len(found)] == PASSED else words[len(found)]))
        if os.WIFSIGNALED(status):
            found.append(Verdict(signal=os.WTERMSIG(status)))
        elif os.WEXITSTATUS(status):
            raise AssertionError("the programs could not be loaded")
    return found


def _in_a_child(
    programs: Sequence[bytes], attempts: Sequence[Attempt], first: int, words: ctypes.Array[ctypes.c_uint32]
) -> int:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        _try_all(programs, attempts, first, words)
    finally:
        os._exit(1)


def _try_all(
    programs: Sequence[bytes], attempts: Sequence[Attempt], first: int, words: ctypes.Array[ctypes.c_uint32]
) -> None:
    """In the child. From here on nothing may ask the kernel for anything but what it is made for."""
    gc.disable()
    faulthandler.disable()
    call = ctypes.CDLL(None, use_errno=True)["syscall"]
    call.argtypes = (ctypes.c_ulong,) * (1 + _ARGUMENTS)
    call.restype = ctypes.c_long
    signal.signal(signal.SIGSYS, signal.SIG_DFL)
    prctl.set_no_new_privs(1)
    processes.load_seccomp(_nothing_is_carried_out(), 0)
    *earlier, last = programs
    for program in earlier:
        processes.load_seccomp(program, 0)
    # As the worker does it, below a program that looks. Alone without records: thousands of them hold up the machine.
    processes.load_seccomp(last, processes.SECCOMP_FILTER_FLAG_LOG if earlier else 0)
    for index in range(first, len(attempts)):
        call(attempts[index].number, *attempts[index].arguments)
        words[index] = ctypes.get_errno()
    os._exit(0)


def _nothing_is_carried_out() -> bytes:
    """Allows what the child itself needs: to load programs and to leave, neither with the bogus word."""
    load, equal, answer = 0x20, 0x15, 6
    program = (
        (load, 0, 0, _NUMBER),
        (equal, 2, 0, _SECCOMP),
        (equal, 3, 0, _EXIT_GROUP),
        (answer, 0, 0, _RET_ERRNO | PASSED),
        (load, 0, 0, _THIRD_ARGUMENT),
        (equal, 2, 3, BOGUS & 0xFFFFFFFF),
        (load, 0, 0, _FIRST_ARGUMENT),
        (equal, 0, 1, BOGUS & 0xFFFFFFFF),
        (answer, 0, 0, _RET_ERRNO | PASSED),
        (answer, 0, 0, _RET_ALLOW),
    )
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
