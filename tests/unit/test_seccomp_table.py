"""The table of system calls says what the worker's sources say they call, and is free of contradictions."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import pyseccomp
import pytest
from virtiofs_sandbox.confine import calls, seccomp
from virtiofs_sandbox.confine.calls import Call, Needs, Role
from virtiofs_sandbox.policies.share import Access, SeccompAction, Share

SOURCES = Path(__file__).parents[2] / "worker/src"
MARKER = re.compile(r"^\s*// syscall (\w+): \S")
LOOSE_MARKER = re.compile(r"//+\s*syscall\b", re.IGNORECASE)
QUEUE_CALLS = tuple(call for group in calls.QUEUE for call in group.calls)
EVERY_CALL = (*calls.START, *calls.KEEPER, *calls.CONTROL, *QUEUE_CALLS)
NAMES = {call.name for call in EVERY_CALL}
# No line of ours makes these: the C library, the language's runtime and the launcher do.
RUNTIME = {
    "arch_prctl",
    "brk",
    "getrandom",
    "getpid",
    "mprotect",
    "mremap",
    "futex",
    "readlink",
    "restart_syscall",
    "rseq",
    "rt_sigprocmask",
    "set_robust_list",
    "set_tid_address",
}
# In include/uapi/asm-generic/unistd.h; libseccomp of Debian 12 does not know them.
FIRST_NUMBER_NEWER_THAN_LIBSECCOMP = 451
ALL_NEEDS = [
    Needs(writing, xattr, switching, attributes)
    for writing, xattr, switching in itertools.product((True, False), repeat=3)
    for attributes in ("path", "open")
]
SHARE = Share("data", Path("/srv/data"), "data")


def marked() -> set[str]:
    lines = (line for path in SOURCES.rglob("*.rs") for line in path.read_text().splitlines())
    return {match[1] for line in lines if (match := MARKER.match(line))}


def test_every_call_the_worker_s_sources_make_is_allowed() -> None:
    assert marked() - NAMES == set()


def test_no_call_is_allowed_that_neither_sources_nor_runtime_make() -> None:
    assert NAMES - marked() - RUNTIME == set()


def test_every_marker_names_its_call_and_its_reason() -> None:
    lines = [(path, line) for path in SOURCES.rglob("*.rs") for line in path.read_text().splitlines()]
    assert [(path, line) for path, line in lines if LOOSE_MARKER.search(line) and not MARKER.match(line)] == []


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("needs", ALL_NEEDS, ids=str)
def test_a_role_has_a_call_once(role: Role, needs: Needs) -> None:
    names = Counter(call.name for call in calls.steady(role, needs))
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_nothing_is_both_allowed_and_deadly() -> None:
    assert NAMES & set(calls.KILLED) == set()
    steady = {call.name for role in Role for call in calls.steady(role, Needs())}
    assert steady & set(calls.KILLED_LATER) == set()


def test_every_entry_has_a_reason() -> None:
    assert [call.name for call in EVERY_CALL if not call.reason] == []


@pytest.mark.parametrize("name", sorted(NAMES | set(calls.KILLED)))
def test_the_name_is_known(name: str) -> None:
    """An unknown name would resolve to a number that no call has, and the entry would do nothing."""
    if name in calls.NEWER_NUMBERS:
        assert calls.NEWER_NUMBERS[name] > FIRST_NUMBER_NEWER_THAN_LIBSECCOMP
    else:
        assert pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0


def test_a_serving_thread_makes_at_most_sixty_calls() -> None:
    assert {needs: len(calls.steady(Role.QUEUE, needs)) for needs in ALL_NEEDS if needs.writing and needs.xattr} == {
        Needs(True, True, True, "path"): 49,
        Needs(True, True, True, "open"): 45,
        Needs(True, True, False, "path"): 47,
        Needs(True, True, False, "open"): 43,
    }


def test_a_read_only_share_has_no_call_that_changes_a_file() -> None:
    changing = {"pwritev2", "fallocate", "ftruncate", "mkdirat", "unlinkat", "renameat2", "fchmodat", "fchownat"}
    changing |= {"copy_file_range", "mknodat", "symlinkat", "linkat", "utimensat", "setxattrat", "fsetxattr"}
    assert {call.name for call in calls.steady(Role.QUEUE, Needs(writing=False))} & changing == set()


def test_without_mounts_of_its_own_a_jail_changes_attributes_only_of_what_it_has_opened() -> None:
    """Landlock does not cover chmod, chown, times and extended attributes by path; it has judged what is open."""
    by_path = {"fchmodat", "fchownat", "setxattrat", "getxattrat", "listxattrat", "removexattrat"}
    made = {call.name: call for call in calls.steady(Role.QUEUE, Needs(attributes="open"))}
    assert made.keys() & by_path == set()
    assert {"fchmod", "fchown"} <= made.keys()
    assert made["utimensat"].allows((5, 0, 0, 0, 0, 0))
    assert not made["utimensat"].allows((5, 0x1000, 0, 0, 0, 0))


def test_what_a_share_needs_is_read_from_it() -> None:
    assert seccomp.needs(SHARE, ids="self", attributes="open") == Needs(True, False, False, "open")
    reading = Share("data", Path("/srv/data"), "data", access=Access.READ_ONLY, xattr=True)
    assert seccomp.needs(reading, ids="caller", attributes="path") == Needs(False, True, True, "path")


def test_refusals_trap_where_nobody_could_read_of_them() -> None:
    assert seccomp.refusal(SeccompAction.ERRNO, recorded=True) is seccomp.Refusal.ERRNO
    assert seccomp.refusal(SeccompAction.ERRNO, recorded=False) is seccomp.Refusal.TRAP
    assert seccomp.refusal(SeccompAction.KILL, recorded=False) is seccomp.Refusal.KILL
    assert seccomp.refusal(SeccompAction.LOG, recorded=False) is seccomp.Refusal.LOG


def test_only_the_action_that_lets_calls_pass_is_a_warning() -> None:
    assert seccomp.shortfall(SeccompAction.ERRNO) is None
    assert seccomp.shortfall(SeccompAction.KILL) is None
    assert "hole" in str(seccomp.shortfall(SeccompAction.LOG))


def test_two_plans_do_not_share_the_key_to_exec() -> None:
    assert seccomp.program(1) != seccomp.program(2)


def test_a_number_has_its_call_s_name() -> None:
    assert [seccomp.call_name(number) for number in (101, 466, 100_000)] == ["ptrace", "removexattrat", None]


def test_a_call_without_forms_in_one_role_has_none_in_the_union() -> None:
    union = {call.name: call for call in calls.union(Needs())}
    assert not union["write"].forms
    assert union["openat"].forms == next(call for call in QUEUE_CALLS if call.name == "openat").forms
    assert isinstance(union["statx"], Call)
