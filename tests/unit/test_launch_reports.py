"""Numbers that cross between the processes of a launch mean the same on both sides."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from tests.fakes.launching import PLAN
from virtiofs_sandbox.launcher import errors, reports

LAUNCHER = Path(__file__).parents[2] / "sandbox/launcher"
SYSCALLS = Path(__file__).parents[2] / "sandbox/syscalls"
NAMED = re.compile(r"""(?:named|_write|SyscallError)\((?:0, )?"([^"]+)\"""")
CHECKED = re.compile(r"""checked\(.*, "([^"]+)"(?:, \w+)?\)$""", re.MULTILINE)
# Made outside of the stages: by doctor, or by the supervisor.
OF_REPORTS = {"files.py", "filtering.py", "notifying.py"}
# Made only outside of the stages.
NEVER_REPORTED = {"landlock_create_ruleset(version)", "capget", "process_vm_writev"}


def test_every_call_a_stage_can_fail_in_has_a_number() -> None:
    sources = ("stages.py", "forking.py", "mounting.py", "adjusting.py")
    stages = NAMED.findall("".join(LAUNCHER.joinpath(name).read_text() for name in sources))
    wrappers = [
        name
        for path in SYSCALLS.glob("*.py")
        if path.name not in OF_REPORTS
        for name in CHECKED.findall(path.read_text())
    ]
    # clone_tree is named anew by its callers, who know what they clone.
    renamed = {"open_tree", *NEVER_REPORTED}
    assert len(stages) > 10 and len(wrappers) > 10
    assert {name for name in (*stages, *wrappers) if name not in reports.CALLS} <= renamed


def test_names_are_unique() -> None:
    assert len(set(reports.CALLS)) == len(reports.CALLS)


@pytest.mark.parametrize("number", [len(reports.CALLS), 2**32 - 1])
def test_a_number_without_a_name_is_still_an_answer(number: int) -> None:
    assert reports.call_name(number) == "unknown call"


def test_an_unknown_stage_is_still_a_sentence() -> None:
    error = errors.failure(PLAN, 4_000_000_000, 4_000_000_000, errno.EPERM)
    assert "unknown call: Operation not permitted" in str(error)


@pytest.mark.parametrize("stage", list(reports.Stage))
def test_every_stage_has_words_and_a_hint(stage: reports.Stage) -> None:
    error = errors.failure(PLAN, stage, "unknown call", errno.EPERM)
    assert error.stage and error.hint
    assert str(error) == f"{error.stage}: unknown call: Operation not permitted; {error.hint}"
