"""An event becomes one line, in each form the same, whatever a hostile worker or a strange path puts into it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.generated import ROOT
from virtiofs_sandbox.cli.logform import json_line, text_line
from virtiofs_sandbox.confine.plan import MountAction, MountChange
from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.ipc.messages import ClientStep
from virtiofs_sandbox.ipc.requests import LogLine
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor import events, journal
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events import (
    ClientProgress,
    ClientRefused,
    Event,
    LimitsChanged,
    LinesLost,
    MountNotChanged,
    ReloadRefused,
    WorkerEnded,
    WorkerEvent,
    WorkerSaid,
)
from virtiofs_sandbox.supervisor.loglines import parse_line
from virtiofs_sandbox.supervisor.recording import fields_of, line_of, name_of

NOW = datetime(2026, 11, 25, 12, 30, 15, 250_000, UTC)
PAGE = ROOT / "docs" / "logs.md"
# Paths have halves of characters for bytes that are none.
ANY_TEXT = st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))
KINDS = sorted(
    (
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, WorkerEvent)
    ),
    key=name_of,
)


def entry_of(encoded: bytes) -> list[tuple[str, bytes]]:
    """What journald makes of an entry: the parser of its protocol's page."""
    fields = []
    while encoded:
        head, _, encoded = encoded.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            size = int.from_bytes(encoded[:8], "little")
            value, encoded = encoded[8 : 8 + size], encoded[8 + size :]
            assert encoded[:1] == b"\n"
            encoded = encoded[1:]
        fields.append((name.decode("ascii"), value))
    return fields


def line(event: Event) -> LogLine:
    return line_of(event, NOW)


@given(st.binary(max_size=600), ANY_TEXT)
@example(b"<6>x\nMESSAGE=forged\n", "a\nVIRTIOFS_SHARE=other")
@example(b'<6>","level":"error', 'a","share":"b')
@example("\u2028\u202e\x85\x9b".encode(), "\ud800\udcff")
def test_nothing_that_a_worker_says_or_a_share_is_called_forges_a_line_or_a_field(raw: bytes, share: str) -> None:
    said = parse_line(raw)
    told = line(WorkerSaid(share, 3, Peer(7, 8), said.level, said.text))
    assert f"{text_line(told)}".isprintable()
    data = json.loads(json_line(told))
    assert json_line(told).isprintable()
    assert (data["message"], data["generation"], data["client"]) == (f"worker: {said.text}", 3, {"pid": 7, "uid": 8})
    fields = entry_of(journal.entry(told))
    assert len(dict(fields)) == len(fields)
    assert dict(fields)["MESSAGE"].endswith(f"#3 pid 7 (uid 8): worker: {said.text}".encode())
    assert dict(fields)["VIRTIOFS_CLIENT_PID"] == b"7"


@given(st.lists(st.tuples(st.from_regex(r"[A-Z][A-Z0-9_]{0,40}", fullmatch=True), ANY_TEXT)))
def test_an_entry_is_read_as_it_was_written_whatever_its_values_are(fields: list[tuple[str, str]]) -> None:
    read = entry_of(journal.encode(fields))
    assert read == [(name, value.encode("utf-8", "backslashreplace")) for name, value in fields]


@given(ANY_TEXT)
def test_a_refusal_of_several_lines_is_one(reason: str) -> None:
    told = line(ReloadRefused("data", reason))
    assert "\n" not in text_line(told)
    assert told.data["reason"].isprintable()


def test_a_line_has_time_level_share_generation_client_event_and_data() -> None:
    told = line(WorkerEnded("data", 4, Peer(811, 64055), Ending(11, None), True, None))
    assert json.loads(json_line(told)) == {
        "time": "2026-11-25T12:30:15.250Z",
        "level": "warning",
        "share": "data",
        "generation": 4,
        "client": {"pid": 811, "uid": 64055},
        "event": "worker-ended",
        "message": str(WorkerEnded("data", 4, None, Ending(11, None), True, None)),
        "data": {"ending": {"code": "protocol", "status": 11, "signal": None}, "expected": True, "statistics": None},
    }
    assert "data#4 pid 811 (uid 64055): worker ended: vhost-user protocol error" in text_line(told)


def test_what_an_event_tells_in_words_is_there_as_numbers() -> None:
    limits = line(LimitsChanged("data", Peer(1, 0), ("read none -> 50MiB/s",), {"read": 50 << 20, "write": None}))
    assert limits.data["rates"] == {"read": 52_428_800, "write": None}
    assert limits.data["by"] == {"pid": 1, "uid": 0}
    assert line(ClientProgress("data", 1, None, ClientStep.MOUNTED, 38)).data == {"step": "mounted", "minor": 38}
    change = MountChange(MountAction.MASK, b"secrets/\xff")
    assert line(MountNotChanged("data", 1, None, change, "busy")).data["change"]["path"] == r"secrets/\xff"


def test_the_client_of_a_line_is_whoever_it_is_about() -> None:
    told = line(ClientRefused("data", Peer(5, 6), (Peer(7, 8),), 1.0))
    assert dict(entry_of(journal.entry(told)))["VIRTIOFS_CLIENT_PID"] == b"5"
    assert told.data == {"holders": [{"pid": 7, "uid": 8}], "after": 1.0}


def test_a_line_of_the_supervisor_itself_has_no_share() -> None:
    told = line(LinesLost("", 12))
    assert told.share is None
    assert "VIRTIOFS_SHARE" not in dict(entry_of(journal.entry(told)))
    assert " supervisor: 12 log lines lost" in text_line(told)


@pytest.mark.parametrize("level", LogLevel)
def test_the_journal_gets_the_priority_of_the_level(level: LogLevel) -> None:
    priority = dict(entry_of(journal.entry(line(WorkerSaid("data", 1, None, level, "x")))))["PRIORITY"]
    assert priority.decode() == {"error": "3", "warning": "4", "info": "6", "debug": "7"}[level.value]


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_every_event_stands_in_the_table_with_its_fields(kind: type[Event]) -> None:
    """Its row: | `name` | level | `field`, `field` | what happened |."""
    row = re.search(rf"^\| `{name_of(kind)}` \|([^|]*)\|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    assert row, f"docs/logs.md has no row for the event {name_of(kind)}"
    assert re.findall(r"`([\w.]+)`", row[2]) == list(fields_of(kind))
    level, computed = kind._LEVEL.value, "level" in vars(kind)
    assert row[1].strip() == ("varies" if computed else level)


def test_the_table_has_no_event_that_there_is_not() -> None:
    table = PAGE.read_text().partition("## Events")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == [name_of(kind) for kind in KINDS]


def test_no_field_of_an_event_takes_the_place_of_one_that_every_entry_has() -> None:
    taken = {"SHARE", "GENERATION", "CLIENT_PID", "CLIENT_UID", "EVENT"}
    for kind in KINDS:
        names = {name.upper() for name in fields_of(kind)}
        assert not names & taken, kind
        # What journald accepts: journal-file.c, journal_field_valid().
        assert all(re.fullmatch(r"[A-Z0-9_]{1,55}", name) for name in names), kind


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket in the place of journald's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "socket"))
        bound.setblocking(False)
        yield bound


def test_an_entry_is_one_datagram(journald: socket.socket, tmp_path: Path) -> None:
    sender = journal.Journal(tmp_path / "socket")
    assert sender.send(b"MESSAGE=one\n") == 12
    assert journald.recv(100) == b"MESSAGE=one\n"
    sender.close()


def test_a_long_entry_comes_as_a_sealed_memfd(journald: socket.socket, tmp_path: Path) -> None:
    sender = journal.Journal(tmp_path / "socket")
    entry = b"MESSAGE=" + b"x" * (16 << 20) + b"\n"
    assert sender.send(entry) == len(entry)
    data, descriptors, _, _ = socket.recv_fds(journald, 100, 1)
    assert data == b""
    wanted = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    with open(descriptors[0], "rb") as file:
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & wanted == wanted
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        assert file.read() == entry
    sender.close()


def test_a_journal_that_does_not_read_is_never_waited_for(journald: socket.socket, tmp_path: Path) -> None:
    sender = journal.Journal(tmp_path / "socket")
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            sender.send(b"MESSAGE=one\n" * 100)
    sender.close()


def test_standard_error_is_the_journal_when_the_variable_names_its_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        status = (tmp_path / "file").stat()
        named = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert journal.is_at(file.fileno(), named)
        other: Mapping[str, str]
        for other in (
            {},
            {"JOURNAL_STREAM": ""},
            {"JOURNAL_STREAM": "x"},
            {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"},
        ):
            assert not journal.is_at(file.fileno(), other)
        number = file.fileno()
    assert not journal.is_at(number, named)
