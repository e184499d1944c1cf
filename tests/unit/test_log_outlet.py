"""Log lines reach a reader that is there, and none that is not holds anything up."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.running import ROOT, Caller
from virtiofs_sandbox.cli.logform import LogForm
from virtiofs_sandbox.cli.outlet import Outlet, Stream
from virtiofs_sandbox.cli.output import Output, form_of
from virtiofs_sandbox.policies.share import LogLevel, Share
from virtiofs_sandbox.supervisor import journal
from virtiofs_sandbox.supervisor.events import ClientsGaveUp, Reloaded, Stopped
from virtiofs_sandbox.supervisor.recent import Recent

LINE = b"x" * 99 + b"\n"


def lost(number: int) -> tuple[bytes, bytes]:
    return b"lost %d\n" % number, b""


class Reader:
    """Takes *room* bytes, then none until there is room again."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.got = b""

    def send(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        taken = data[: self.room]
        self.room -= len(taken)
        self.got += taken
        return len(taken)


@given(st.lists(st.integers(1, 300) | st.none(), max_size=200))
def test_lines_arrive_whole_and_in_order_however_a_reader_takes_them_and_what_is_lost_is_counted(
    steps: list[int | None],
) -> None:
    reader = Reader(0)
    outlet = Outlet(reader.send, lost=lost, most=1000)
    put = 0
    for step in steps:
        if step is None:
            outlet.put(b"line %d\n" % put)
            put += 1
        else:
            reader.room += step
            outlet.flush()
    reader.room += 1 << 20
    outlet.flush()
    lines = reader.got.decode().splitlines()
    seen = [int(line.removeprefix("line ")) for line in lines if line.startswith("line ")]
    missing = sum(int(line.removeprefix("lost ")) for line in lines if line.startswith("lost "))
    assert seen == sorted(set(seen))
    assert len(seen) + missing == put
    assert reader.got == b"" or reader.got.endswith(b"\n")


def test_what_was_not_taken_is_tried_again_without_another_line() -> None:
    async def scene() -> bytes:
        reader = Reader(0)
        outlet = Outlet(reader.send, lost=lost)
        outlet.put(LINE)
        reader.room = 1000
        async with asyncio.timeout(10):
            while reader.got != LINE:
                await asyncio.sleep(0.01)
        outlet.close()
        return reader.got

    assert asyncio.run(scene()) == LINE


def ends(kind: str) -> tuple[int, int]:
    """A writer's and a reader's descriptor."""
    match kind:
        case "pipe":
            reading, writing = os.pipe()
            return writing, reading
        case "socket":
            ours, theirs = socket.socketpair()
            return ours.detach(), theirs.detach()
        case _:
            reading, writing = pty.openpty()
            return writing, reading


KINDS = ["pipe", "socket", "terminal"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_does_not_read_is_not_waited_for_and_its_descriptor_is_as_before(kind: str) -> None:
    writing, reading = ends(kind)
    flags = fcntl.fcntl(writing, fcntl.F_GETFL)
    stream = Stream(writing)
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            stream.send(LINE)
    assert fcntl.fcntl(writing, fcntl.F_GETFL) == flags
    assert os.read(reading, 4) == LINE[:4]
    stream.close()
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_is_gone_costs_its_lines_alone(kind: str) -> None:
    writing, reading = ends(kind)
    stream = Stream(writing)
    outlet = Outlet(stream.send, lost=lost)
    outlet.put(LINE)
    os.close(reading)
    for _ in range(10_000):
        outlet.put(LINE)
    outlet.close()
    stream.close()
    os.close(writing)


def test_a_pipe_that_cannot_be_opened_anew_is_not_waited_for_either(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, reading = ends("pipe")

    def refuse(*_: object) -> int:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        stream = Stream(writing)
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            stream.send(LINE * 100)
    os.close(writing)
    os.close(reading)


def test_a_closed_descriptor_is_a_reader_that_is_gone() -> None:
    writing, reading = ends("pipe")
    os.close(writing)
    os.close(reading)
    outlet = Outlet(Stream(writing).send, lost=lost)
    outlet.put(LINE)
    outlet.close()


SHARE = Share(name="data", source=Path("/"), tag="data")


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in the place of journald's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "socket"))
        bound.settimeout(10)
        monkeypatch.setattr(journal.Journal.__init__, "__defaults__", (tmp_path / "socket",))
        yield bound


def test_the_journal_gets_every_event_and_standard_error_none(
    journald: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Output(SHARE, LogForm.JOURNAL)
    output.show(Stopped("data"))
    assert b"VIRTIOFS_EVENT=stopped\n" in journald.recv(1000)
    output.close()
    assert capfd.readouterr() == ("", "")


def test_without_a_journal_the_text_stands_on_standard_error_until_there_is_one_again(
    journald: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = Output(SHARE, LogForm.JOURNAL)
    (tmp_path / "socket").rename(tmp_path / "away")
    output.show(Stopped("data"))
    assert capfd.readouterr().err.endswith("info    data: stopped\n")
    (tmp_path / "away").rename(tmp_path / "socket")
    output.show(Stopped("data"))
    assert b"MESSAGE=data: stopped\n" in journald.recv(1000)
    journald.close()
    output.show(Stopped("data"))
    assert capfd.readouterr().err.endswith("info    data: stopped\n")
    output.close()


def test_a_journal_that_does_not_read_gets_the_lines_later_and_the_number_of_those_that_were_too_many(
    journald: socket.socket,
) -> None:
    output = Output(SHARE, LogForm.JOURNAL)
    count = 20_000
    for number in range(count):
        output.show(Reloaded("data", (f"change {number}",), SHARE.log_level))
    got, missing = [], 0
    journald.setblocking(False)
    tries = 0
    while not missing and tries < count:
        try:
            entry = journald.recv(4000)
        except BlockingIOError:
            # The next line is another try for those that wait.
            tries += 1
            output.show(Stopped("data"))
            continue
        if b"VIRTIOFS_EVENT=reloaded\n" in entry:
            got.append(entry)
        elif b"VIRTIOFS_EVENT=lines-lost\n" in entry:
            missing = int(entry.partition(b"VIRTIOFS_LINES=")[2].split(b"\n")[0])
    output.close()
    assert b"change 0\n" in got[0]
    assert 0 < len(got) < count
    assert missing >= count - len(got)


def test_the_log_levels_are_those_of_each_share_and_change_with_a_reload(capfd: pytest.CaptureFixture[str]) -> None:
    recent = Recent()
    output = Output(SHARE, LogForm.JSON, recent)
    output.show(ClientsGaveUp("data", 1))
    output.show(Reloaded("data", (), LogLevel.DEBUG))
    output.show(ClientsGaveUp("data", 2))
    output.close()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["reloaded", "clients-gave-up"]


def test_the_form_is_the_journals_where_standard_error_is_the_journal_and_nothing_else_is_asked_for() -> None:
    status = os.fstat(2)
    there = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    assert form_of(None, there) is LogForm.JOURNAL
    assert form_of(LogForm.JSON, there) is LogForm.JSON
    assert form_of(None, {}) is LogForm.TEXT


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2), (0,)])
def test_a_standard_descriptor_that_is_closed_leads_nowhere_before_anything_is_opened(closed: tuple[int, ...]) -> None:
    code = """
import os, sys
from virtiofs_sandbox.cli.text import hold_standard_descriptors
for number in map(int, sys.argv[1].split(",")):
    os.close(number)
hold_standard_descriptors()
wrong = [n for n in map(int, sys.argv[1].split(",")) if os.readlink(f"/proc/self/fd/{n}") != "/dev/null"]
sys.exit(bool(wrong) or os.open("/", os.O_RDONLY) < 3)
"""
    command = [sys.executable, "-c", code, ",".join(map(str, closed))]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0


def test_a_share_in_service_goes_on_with_its_standard_error_full(tmp_path: Path) -> None:
    """The whole command, a pipe that nobody reads, and more lines than go into it."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    (tmp_path / "share").mkdir()
    command = [sys.executable, "-m", "tests.fakes.run", str(tmp_path / "share"), "--tag", "data"]
    command += ["--socket", str(tmp_path / "s"), "--control-dir", str(tmp_path / "control"), "--log-level", "debug"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready: ")
        for _ in range(30):
            caller = Caller("fake", tmp_path / "s")
            assert caller.served()
            caller.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert b"worker ready" in os.read(reading, 4096)
    finally:
        process.kill()
        process.communicate()
        os.close(reading)


@pytest.mark.parametrize("form", LogForm)
def test_an_output_that_is_closed_keeps_no_descriptor(form: LogForm, capfd: pytest.CaptureFixture[str]) -> None:
    before = os.listdir("/proc/self/fd")
    output = Output(SHARE, form)
    output.show(Stopped("data"))
    output.close()
    assert os.listdir("/proc/self/fd") == before
    capfd.readouterr()
