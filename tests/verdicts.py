"""What the kernel says to system calls below seccomp programs, without any of them being carried out.

A child loads a program of its own first, which answers every call but two by an errno that nobody else uses, and then
the programs to be judged. Of two answers by errno the later one counts, and every answer is stricter than "allowed": so
a call that the judged programs let pass gets that errno, and one that they refuse gets their own answer.
"""

from __future__ import annotations

import ctypes
import errno
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
_LOAD_AND_LEAVE = (317, 231)
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

    @property
    def passed(self) -> bool:
        return not self.errno and not self.signal


def verdicts(programs: Sequence[bytes], attempts: Sequence[Attempt]) -> list[Verdict]:
    """One verdict per attempt, below all of *programs*, loaded in their order."""
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
    # From here on nothing may ask the kernel for anything but what it is made for.
    gc.disable()
    call = ctypes.CDLL(None, use_errno=True)["syscall"]
    call.argtypes = (ctypes.c_ulong,) * (1 + _ARGUMENTS)
    call.restype = ctypes.c_long
    signal.signal(signal.SIGSYS, signal.SIG_DFL)
    prctl.set_no_new_privs(1)
    processes.load_seccomp(_nothing_is_carried_out(), 0)
    for program in programs:
        processes.load_seccomp(program, 0)
    for index in range(first, len(attempts)):
        call(attempts[index].number, *attempts[index].arguments)
        words[index] = ctypes.get_errno()
    os._exit(0)


def _nothing_is_carried_out() -> bytes:
    """Loads the call's number and jumps to "allow" for the two that the child itself needs."""
    statement = struct.Struct("<HBBI").pack
    load = statement(0x20, 0, 0, 0)
    jumps = [statement(0x15, len(_LOAD_AND_LEAVE) - place, 0, number) for place, number in enumerate(_LOAD_AND_LEAVE)]
    return b"".join((load, *jumps, statement(6, 0, 0, _RET_ERRNO | PASSED), statement(6, 0, 0, _RET_ALLOW)))
