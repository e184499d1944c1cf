"""From the table of system calls to BPF programs: one for start-up, one for each role afterwards.

A listed call is allowed where its arguments match. The dangerous set kills the process, whatever the policy says:
nothing honest ever makes those calls. All the rest gets what `share.sandbox.seccomp` asks for, see Refusal.
"""

from __future__ import annotations

import enum
import errno
import functools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from virtiofs_sandbox.confine import calls, stockcalls
from virtiofs_sandbox.confine.calls import Call, Needs, Role
from virtiofs_sandbox.confine.plan import RoleFilters
from virtiofs_sandbox.policies.share import Access, SeccompAction, Share

if TYPE_CHECKING:
    import pyseccomp

# What seccomp(2) gets beside the program: denials by errno are logged too.
FLAGS = calls.SECCOMP_FILTER_FLAG_LOG
EVERYTHING = Needs()
_BINARY_TREE = 2


class Refusal(enum.Enum):
    """What a call outside the list gets.

    ERRNO: EPERM, and a record in the kernel's log. TRAP: SIGSYS, whose handler in the worker writes a log line and
    makes the call answer EPERM: for supervisors that cannot read the records. KILL: the process ends. LOG: it is
    carried out, and recorded.
    """

    ERRNO = "errno"
    TRAP = "trap"
    KILL = "kill"
    LOG = "log"


def needs(share: Share, *, ids: Literal["caller", "self"], attributes: Literal["path", "open"]) -> Needs:
    """What of the table *share* needs; the other two are the launch plan's."""
    return Needs(
        writing=share.access is not Access.READ_ONLY,
        xattr=share.xattr,
        switching=ids == "caller",
        attributes=attributes,
    )


def refusal(action: SeccompAction, *, recorded: bool) -> Refusal:
    """How *action* is carried out; *recorded*: the supervisor can read the kernel's records."""
    if action is SeccompAction.ERRNO and not recorded:
        return Refusal.TRAP
    return Refusal(action.value)


def shortfall(action: SeccompAction) -> str | None:
    """The sentence about what *action* leaves open; None if it leaves nothing open."""
    if action is not SeccompAction.LOG:
        return None
    return (
        "seccomp only records what it should refuse: system calls outside the list are carried out, so the jail has a "
        'hole; set sandbox.seccomp = "errno" once the diagnosis is done'
    )


def program(key: int, needs: Needs = EVERYTHING, refusal: Refusal = Refusal.ERRNO) -> bytes:
    """The first stage: an array of struct sock_filter, as seccomp(2) takes it. Takes a few milliseconds.

    Only execveat(2) with *key* as its sixth argument executes anything. There is no handler of SIGSYS yet when this one
    is loaded, so it answers by errno where the later ones trap.

    pyseccomp is imported in here and not at the top: it may start a compiler to find its library, which must never
    happen in the zygote or in a jail.
    """
    allowed = (*calls.union(needs), *_way_back(refusal), calls.execveat(key))
    return _compiled(allowed, calls.KILLED, Refusal.ERRNO if refusal is Refusal.TRAP else refusal)


@functools.lru_cache(maxsize=16)
def role_programs(needs: Needs = EVERYTHING, refusal: Refusal = Refusal.ERRNO) -> RoleFilters:
    """The second stage of each role, loaded over the first one: the same object for all shares of the same kind."""
    programs = {
        role.value: _compiled((*calls.steady(role, needs), *_way_back(refusal)), calls.KILLED_LATER, refusal)
        for role in Role
    }
    return RoleFilters(**programs)


def stock_program(
    key: int, needs: Needs = EVERYTHING, refusal: Refusal = Refusal.ERRNO, *, besides: tuple[Call, ...] = ()
) -> bytes:
    """The program of a jail in which a stock virtiofsd serves; there is no second stage. *besides*: allowed too."""
    allowed = calls.merged((*stockcalls.allowed(needs), *besides, calls.execveat(key)))
    return _compiled(allowed, stockcalls.DEADLY, refusal)


def waiting_program() -> bytes:
    """The program for accept(2): the call waits until the supervisor answers it, if the other program allows it."""
    import pyseccomp  # noqa: PLC0415

    compiled = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    compiled.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    compiled.add_rule(pyseccomp.NOTIFY, stockcalls.ACCEPTING.name)
    return _exported(compiled)


@functools.lru_cache(maxsize=1)
def unlogged_program(besides: tuple[Call, ...] = ()) -> bytes:
    """The program for refusals that are no news: it is loaded beside the other one, without FLAGS. *besides*, which
    have forms, it refuses as a kernel does that does not know them.

    The flags of clone3 are behind a pointer, where no filter sees them. Refused with ENOSYS, the C library takes clone
    instead; it tries anew for every thread, and a log record of each would drown the ones that matter.
    """
    import pyseccomp  # noqa: PLC0415

    compiled = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    compiled.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    compiled.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for call in besides:
        for form in call.forms:
            compiled.add_rule(pyseccomp.ERRNO(errno.EINVAL), call.name, *map(_condition, form))
    return _exported(compiled)


def call_name(number: int) -> str | None:
    """The name of system call *number* of x86_64; None for one that neither libseccomp nor the table knows."""
    import pyseccomp  # noqa: PLC0415

    for name, newer in calls.NEWER_NUMBERS.items():
        if newer == number:
            return name
    try:
        name = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, number)
    except (OSError, ValueError):
        return None
    return name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)


def _way_back(refusal: Refusal) -> tuple[Call, ...]:
    return (calls.SIGNAL_RETURN,) if refusal is Refusal.TRAP else ()


def _compiled(allowed: Iterable[Call], killed: Iterable[str], refusal: Refusal) -> bytes:
    import pyseccomp  # noqa: PLC0415

    default = {
        Refusal.ERRNO: pyseccomp.ERRNO(errno.EPERM),
        Refusal.TRAP: pyseccomp.TRAP,
        Refusal.KILL: pyseccomp.KILL_PROCESS,
        Refusal.LOG: pyseccomp.LOG,
    }[refusal]
    compiled = pyseccomp.SyscallFilter(default)
    # The default would only kill the thread that switched to another calling convention.
    compiled.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    # A search tree over the numbers: every call with argument filters runs the program, and a list of them is long.
    compiled.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    # Not for the worker: the unlogged program says ENOSYS, and the stricter of two answers counts.
    compiled.add_rule(pyseccomp.ALLOW, "clone3")
    # libseccomp refuses a rule that says what the default says.
    for name in () if refusal is Refusal.KILL else killed:
        compiled.add_rule(pyseccomp.KILL_PROCESS, name)
    for call in allowed:
        for form in call.forms or ((),):
            conditions = [_condition(where) for where in form]
            compiled.add_rule(pyseccomp.ALLOW, calls.NEWER_NUMBERS.get(call.name, call.name), *conditions)
    return _exported(compiled)


def _condition(where: calls.Where) -> pyseccomp.Arg:
    import pyseccomp  # noqa: PLC0415

    if where.differs:
        return pyseccomp.Arg(where.index, pyseccomp.NE, where.value)
    return pyseccomp.Arg(where.index, pyseccomp.MASKED_EQ, where.mask, where.value)


def _exported(compiled: pyseccomp.SyscallFilter) -> bytes:
    with os.fdopen(os.memfd_create("seccomp-program", os.MFD_CLOEXEC), "r+b") as file:
        compiled.export_bpf(file)
        file.seek(0)
        return file.read()
