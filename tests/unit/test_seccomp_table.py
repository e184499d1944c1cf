"""The filter allows what the worker's sources say they call, and the table is free of contradictions."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyseccomp
import pytest
from virtiofs_sandbox.confine import seccomp

SOURCES = Path(__file__).parents[2] / "worker/src"
MARKER = re.compile(r"^\s*// syscall (\w+): \S")
LOOSE_MARKER = re.compile(r"//+\s*syscall\b", re.IGNORECASE)
RUNTIME = {call.name for call in seccomp.RUNTIME}
WORKER = {call.name for call in seccomp.WORKER}
# In include/uapi/asm-generic/unistd.h; libseccomp of Debian 12 does not know them.
FIRST_NUMBER_NEWER_THAN_LIBSECCOMP = 451


def marked() -> set[str]:
    lines = (line for path in SOURCES.rglob("*.rs") for line in path.read_text().splitlines())
    return {match[1] for line in lines if (match := MARKER.match(line))}


def test_every_call_the_worker_s_sources_make_is_allowed() -> None:
    assert marked() - WORKER - RUNTIME == set()


def test_no_call_is_allowed_that_neither_sources_nor_runtime_make() -> None:
    assert WORKER - marked() == set()


def test_every_marker_names_its_call_and_its_reason() -> None:
    lines = [(path, line) for path in SOURCES.rglob("*.rs") for line in path.read_text().splitlines()]
    assert [(path, line) for path, line in lines if LOOSE_MARKER.search(line) and not MARKER.match(line)] == []


def test_a_call_stands_in_the_table_once() -> None:
    names = Counter([call.name for call in (*seccomp.RUNTIME, *seccomp.WORKER)] + list(seccomp.KILLED))
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_every_entry_has_a_reason() -> None:
    assert [call.name for call in (*seccomp.RUNTIME, *seccomp.WORKER) if not call.reason] == []


@pytest.mark.parametrize("name", sorted(RUNTIME | WORKER | set(seccomp.KILLED)))
def test_the_name_is_known(name: str) -> None:
    """An unknown name would resolve to a number that no call has, and the entry would do nothing."""
    if name in seccomp.NEWER_NUMBERS:
        assert seccomp.NEWER_NUMBERS[name] > FIRST_NUMBER_NEWER_THAN_LIBSECCOMP
    else:
        assert pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0


def test_two_plans_do_not_share_the_key_to_exec() -> None:
    assert seccomp.program(1) != seccomp.program(2)
