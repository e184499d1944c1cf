"""A stock virtiofsd from outside: its log lines, its end, what may change while it runs."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.ipc.exits import ExitCode
from virtiofs_sandbox.policies.limiting import LimitError, limited
from virtiofs_sandbox.policies.share import (
    Access,
    ControlLimits,
    DiskLimits,
    LogLevel,
    PathRules,
    Program,
    RequestLimits,
    Share,
)
from virtiofs_sandbox.supervisor.changes import Reach, changes
from virtiofs_sandbox.supervisor.foreign import ForeignEnding, parse_foreign

SHARE = Share("data", Path("/srv"), "data", queues=1, stuck_after=None, program=Program(Path("/virtiofsd")))


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        (b"[2026-11-25T13:13:06Z INFO  virtiofsd] Client connected", LogLevel.INFO, "Client connected"),
        (b"[2026-11-25T13:13:06Z ERROR virtiofsd] no", LogLevel.ERROR, "no"),
        (b"[2026-11-25T13:13:06Z WARN  virtiofsd::server] odd", LogLevel.WARNING, "virtiofsd::server: odd"),
        (b"[2026-11-25T13:13:06Z TRACE virtiofsd] step", LogLevel.DEBUG, "step"),
        (b"thread 'main' panicked at src/main.rs:1", LogLevel.WARNING, "thread 'main' panicked at src/main.rs:1"),
        (b"[2026-11-25T13:13:06Z FATAL virtiofsd] x", LogLevel.WARNING, "[2026-11-25T13:13:06Z FATAL virtiofsd] x"),
        (b"[t INFO  virtiofsd] \x1b[2J", LogLevel.INFO, "\\x1b[2J"),
    ],
)
def test_its_lines_keep_their_level_and_lose_their_clock(raw: bytes, level: LogLevel, text: str) -> None:
    line = parse_foreign(raw)
    assert (line.level, line.text) == (level, text)


@given(st.binary(max_size=600) | st.builds(lambda rest: b"[t ERROR " + rest, st.binary(max_size=600)))
def test_whatever_it_writes_is_one_line_without_a_control_character(raw: bytes) -> None:
    assert parse_foreign(raw).text.isprintable()


@pytest.mark.parametrize(
    ("ending", "failure", "says"),
    [
        (ForeignEnding(0, None), False, "its connection has ended"),
        (ForeignEnding(1, None), True, "exit status 1; its log says why"),
        (ForeignEnding(1, None, asked=True), False, "stopped on request"),
        (ForeignEnding(2, None), True, "exit status 2; its log says why"),
        (ForeignEnding(11, None), True, "exit status 11; its log says why"),
        (ForeignEnding(None, signal.SIGKILL), True, "killed by signal 9 (SIGKILL)"),
        (ForeignEnding(None, signal.SIGSYS), True, "killed by seccomp"),
        (ForeignEnding(None, signal.SIGKILL, asked=True), True, "killed by signal 9 (SIGKILL)"),
    ],
)
def test_its_end_is_read_by_its_own_few_statuses_and_not_by_those_of_our_keeper(
    ending: ForeignEnding, failure: bool, says: str
) -> None:
    assert ending.is_failure is failure
    assert says in str(ending)
    assert (ending.code is ExitCode.CLIENT_LEFT) is (ending.status == 0)


@pytest.mark.parametrize(
    ("fields", "reach"),
    [
        ({"log_level": LogLevel.DEBUG}, Reach.JAIL),
        ({"access": Access.READ_ONLY}, Reach.JAIL),
        ({"program": None}, Reach.JAIL),
        ({"program": None, "paths": PathRules(hide=("x",))}, Reach.JAIL),
        ({"program": None, "limits": RequestLimits(read=1 << 20)}, Reach.JAIL),
        ({"control": ControlLimits(disk=DiskLimits(read=1 << 20))}, Reach.GROUPS),
    ],
    ids=str,
)
def test_what_a_reload_changes_takes_a_new_jail_but_for_control_groups(fields: dict[str, object], reach: Reach) -> None:
    new = dataclasses.replace(SHARE, **fields)  # type: ignore[arg-type]
    assert {change.reach for change in changes(SHARE, new)} == {reach}
    assert {change.reach for change in changes(new, SHARE)} == {reach}


def test_limits_on_requests_cannot_be_set_while_it_runs_and_those_of_the_disk_can() -> None:
    with pytest.raises(LimitError, match=r"^read: /virtiofsd counts no requests"):
        limited(SHARE, SHARE, {"read": "1MiB/s"})
    assert limited(SHARE, SHARE, {"disk.read": "1MiB/s"}).control.disk.read == 1 << 20
