"""The kernel's verdict on the real programs: what the table allows passes, and each of its neighbours does not."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
from collections.abc import Iterator

import prctl
import pyseccomp
import pytest
from tests.verdicts import BOGUS, Attempt, Verdict, verdicts
from virtiofs_sandbox.confine import calls, seccomp
from virtiofs_sandbox.confine.calls import Call, Needs, Role, Where
from virtiofs_sandbox.confine.seccomp import Refusal
from virtiofs_sandbox.syscalls import processes

KEY = 0x1234_5678_9ABC_DEF0
NEWEST_NUMBER = 470
X32 = 0x4000_0000
CLONE3 = 435
# uretprobe and uprobe: the kernel runs them past every filter (Linux 6.14), and ends whoever calls them by hand.
UNFILTERED = {335, 336}
REFUSED, KILLED = Verdict(errno=errno.EPERM), Verdict(signal=signal.SIGSYS)
NEEDS = [Needs(), Needs(attributes="open"), Needs(writing=False, xattr=False, switching=False)]
STARTING = (*calls.union(Needs()), calls.execveat(KEY))
ROLES = [(role, needs) for role in Role for needs in (NEEDS if role is Role.QUEUE else NEEDS[:1])]


def number(name: str) -> int:
    return calls.NEWER_NUMBERS.get(name) or int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


def program(role: Role, needs: Needs = NEEDS[0], refusal: Refusal = Refusal.ERRNO) -> bytes:
    made: bytes = getattr(seccomp.role_programs(needs, refusal), role.value)
    return made


def stack(role: Role, needs: Needs = NEEDS[0]) -> list[bytes]:
    """All that a thread of *role* has above it in the end."""
    return [seccomp.unlogged_program(), seccomp.program(KEY, needs), program(role, needs)]


def fitting(form: tuple[Where, ...]) -> tuple[int, ...]:
    """Arguments of *form*; whatever it leaves open, unused upper halves too, is filled with bits."""
    arguments = [BOGUS] * 6
    for where in form:
        value = where.value ^ 1 if where.differs else where.value
        arguments[where.index] = value | BOGUS & ~where.mask
    return tuple(arguments)


def forms(call: Call) -> Iterator[tuple[int, ...]]:
    for form in call.forms or ((),):
        yield fitting(form)


def neighbours(call: Call) -> Iterator[tuple[int, ...]]:
    """Each argument that the table looks at, off by one bit."""
    for form in call.forms:
        for index in {where.index for where in form}:
            for bit in range(64):
                arguments = list(fitting(form))
                arguments[index] ^= 1 << bit
                yield tuple(arguments)


def wrong(programs: list[bytes], table: tuple[Call, ...]) -> list[tuple[str, tuple[int, ...], Verdict]]:
    """Where the kernel and *table* disagree."""
    tried = [(call, arguments) for call in table for arguments in (*forms(call), *neighbours(call))]
    found = verdicts(programs, [Attempt(number(call.name), arguments) for call, arguments in tried])
    return [
        (call.name, arguments, verdict)
        for (call, arguments), verdict in zip(tried, found, strict=True)
        if verdict != (Verdict() if call.allows(arguments) else REFUSED)
    ]


@pytest.mark.parametrize(("role", "needs"), ROLES, ids=str)
def test_a_role_may_call_what_its_table_says_and_no_neighbour(role: Role, needs: Needs) -> None:
    assert wrong([program(role, needs)], calls.steady(role, needs)) == []


@pytest.mark.parametrize(("role", "needs"), ROLES, ids=str)
def test_the_first_stage_keeps_from_no_role_what_is_its_own(role: Role, needs: Needs) -> None:
    tried = [(call.name, arguments) for call in calls.steady(role, needs) for arguments in forms(call)]
    found = verdicts(stack(role, needs), [Attempt(number(name), arguments) for name, arguments in tried])
    assert [pair for pair, verdict in zip(tried, found, strict=True) if verdict != Verdict()] == []


def test_start_up_may_call_what_its_table_says_and_no_neighbour() -> None:
    assert wrong([seccomp.program(KEY)], STARTING) == []


@pytest.mark.parametrize(("role", "needs"), ROLES, ids=str)
def test_whatever_else_has_a_number_is_refused(role: Role, needs: Needs) -> None:
    named = {number(call.name) for call in calls.steady(role, needs)} | {number(name) for name in calls.KILLED_LATER}
    others = [other for other in range(NEWEST_NUMBER) if other not in named | UNFILTERED | {CLONE3}]
    found = verdicts([program(role, needs)], [Attempt(other) for other in others])
    assert {other: verdict for other, verdict in zip(others, found, strict=True) if verdict != REFUSED} == {}


def test_whatever_else_has_a_number_is_refused_or_deadly_from_the_start() -> None:
    named = {number(call.name) for call in STARTING}
    deadly = {number(name) for name in calls.KILLED}
    others = [other for other in range(NEWEST_NUMBER) if other not in named | UNFILTERED | {CLONE3}]
    found = verdicts([seccomp.program(KEY)], [Attempt(other) for other in others])
    assert {o: v for o, v in zip(others, found, strict=True) if v != (KILLED if o in deadly else REFUSED)} == {}


@pytest.mark.parametrize("role", Role)
def test_a_policy_may_have_everything_unlisted_kill(role: Role) -> None:
    deadly = program(role, refusal=Refusal.KILL)
    table = calls.steady(role, Needs())
    tried = [(call, arguments) for call in table for arguments in forms(call)]
    found = verdicts([deadly], [Attempt(number(call.name), arguments) for call, arguments in tried])
    assert set(found) == {Verdict()}
    refused = [
        Attempt(number(call.name), next(a for a in neighbours(call) if not call.allows(a)))
        for call in table
        if call.forms
    ]
    assert set(verdicts([deadly], [*refused, Attempt(number("getuid"))])) == {KILLED}


def test_a_diagnosis_lets_pass_what_is_unlisted_but_not_what_is_deadly() -> None:
    diagnosis = seccomp.program(KEY, refusal=Refusal.LOG)
    harmless, deadly = Attempt(number("getuid")), [Attempt(number(name)) for name in calls.KILLED]
    assert verdicts([diagnosis], [harmless, *deadly]) == [Verdict()] + [KILLED] * len(deadly)
    programs = seccomp.role_programs(refusal=Refusal.LOG)
    for made in (programs.keeper, programs.control, programs.queue):
        assert verdicts([made], [harmless]) == [Verdict()]


@pytest.mark.parametrize("role", Role)
def test_where_refusals_trap_an_unlisted_call_raises_a_signal_and_its_handler_can_return(role: Role) -> None:
    programs = [seccomp.program(KEY, refusal=Refusal.TRAP), program(role, refusal=Refusal.TRAP)]
    attempts = [Attempt(number("getuid")), Attempt(number("rt_sigreturn"))]
    assert verdicts(programs, attempts) == [Verdict(signal=signal.SIGSYS), Verdict()]


@pytest.mark.parametrize("role", Role)
def test_calls_of_the_x32_convention_are_deadly(role: Role) -> None:
    attempts = [Attempt(X32 + number(call.name)) for call in calls.steady(role, Needs())[:3]]
    assert set(verdicts([program(role)], attempts)) == {KILLED}


@pytest.mark.parametrize("role", Role)
def test_clone3_does_not_exist_and_that_is_no_news(role: Role) -> None:
    assert verdicts(stack(role), [Attempt(CLONE3)]) == [Verdict(errno=errno.ENOSYS)]


PRIVATE, SHARED_ANONYMOUS, FIXED = 0x22, 0x21, 0x10
NEVER_AGAIN = {
    "a process": ("clone", (17,)),
    "a thread": ("clone", (calls.CLONE_A_THREAD,)),
    "a handler": ("rt_sigaction", (11,)),
    "executable memory": ("mmap", (0, 4096, 5, PRIVATE)),
    "executable guest memory": ("mmap", (0, 4096, 7, 0x4001)),
    "memory made executable": ("mprotect", (4096, 4096, 5)),
    "memory made executable under a key": ("pkey_mprotect", (4096, 4096, 5, 0)),
    "memory that no limit counts": ("mmap", (0, 4096, 3, SHARED_ANONYMOUS)),
    "memory at an address of choice": ("mmap", (4096, 4096, 3, PRIVATE | FIXED)),
    "memory moved to an address of choice": ("mremap", (4096, 4096, 4096, 3, 8192)),
    "a second mapping of shared memory": ("mremap", (4096, 0, 4096, 1)),
    "a name": ("prctl", (15,)),
    "an outliving worker": ("prctl", (1, 0)),
    "a signal": ("tgkill", (1, 1, 9)),
    "a signal to anybody": ("kill", (1, 9)),
    "a socket": ("socket", (1, 1, 0)),
    "an open by path": ("openat", (0xFFFF_FF9C, 0, 0o2000000)),
    "a file made through procfs": ("openat", (calls.PROC, 0, 0o2000100)),
    "a message to an address": ("sendto", (calls.CONTROL_SOCKET, 0, 1, 0, 1, 16)),
}
DEADLY_FROM_NOW_ON = {"another filter": ("seccomp", (1, 2)), "another program": ("execveat", (9, 0, 0, 0, 0x1000, KEY))}


@pytest.mark.parametrize(("role", "needs"), ROLES, ids=str)
@pytest.mark.parametrize("what", NEVER_AGAIN)
def test_once_started_no_role_makes(what: str, role: Role, needs: Needs) -> None:
    name, arguments = NEVER_AGAIN[what]
    attempt = Attempt(number(name), (*arguments, *(0,) * (6 - len(arguments))))
    assert verdicts([program(role, needs)], [attempt]) == [REFUSED]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("what", DEADLY_FROM_NOW_ON)
def test_once_started_it_is_deadly_to_ask_for(what: str, role: Role) -> None:
    name, arguments = DEADLY_FROM_NOW_ON[what]
    attempt = Attempt(number(name), (*arguments, *(0,) * (6 - len(arguments))))
    assert verdicts([program(role)], [attempt]) == [KILLED]


@pytest.mark.parametrize("role", Role)
def test_a_process_that_aborts_ends_without_a_call_that_signals(role: Role) -> None:
    """The C library's abort falls back to an instruction that no user process may execute."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        prctl.set_no_new_privs(1)
        processes.load_seccomp(program(role), seccomp.FLAGS)
        os.abort()
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV
