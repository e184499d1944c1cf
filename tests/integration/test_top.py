"""`top` on shares in service: as a terminal shows it, as a pipe gets it, and as data."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.frontend import FrontEnd
from tests.integration.running import PROGRAMS, ROOT, Running

PROGRAM = os.fspath(PROGRAMS / "virtiofs-sandbox")
SECONDS = 15.0


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    with Running("real", tmp_path, "--socket", os.fspath(tmp_path / "s")) as running:
        yield running.ready()


def top(run: Running, *options: str) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, "top", "--control-dir", os.fspath(run.control), "--interval", "0.3", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT)


class Terminal:
    """`top` in a terminal of its own, which is only looked at."""

    def __init__(self, run: Running, *options: str) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(30, 150)
        environ = {**os.environ, "TERM": "xterm"}
        top = [PROGRAM, "top", "--control-dir", os.fspath(run.control), "--interval", "0.3", *options]
        # Only who is controlled by a terminal is told of its new size.
        command = ["setsid", "--ctty", *top]
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=ROOT)
        os.close(theirs)
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def until(self, pattern: str) -> str:
        """Reads on until *pattern* is there; returns what it matched, and forgets what came before."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.shown!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                # EIO: the other end is closed.
                with contextlib.suppress(OSError):
                    self.shown += os.read(self._ours, 65536).decode(errors="replace")
        self.shown = self.shown[found.end() :]
        return found[0]

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(run: Running) -> Iterator[Terminal]:
    made = Terminal(run)
    yield made
    made.close()


def test_once_prints_what_a_guest_does_and_data_has_the_same(run: Running, tmp_path: Path) -> None:
    (tmp_path / "share" / "file").write_bytes(b"x" * 4096)
    with FrontEnd.connect(tmp_path / "s") as guest:
        guest.start().init()
        command = [PROGRAM, "top", "--control-dir", os.fspath(run.control), "--interval", "1", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            node = guest.lookup(b"file").node
            handle = guest.open(node)
            while process.poll() is None:
                guest.read(node, handle, 0, 4096)
            assert process.stdout is not None
            (share,) = json.loads(process.stdout.read())["shares"]
        table = top(run, "--once").stdout.splitlines()
    assert (share["share"], share["tier"], share["state"]) == ("data", "full", "serving")
    assert share["client"] == {"pid": os.getpid(), "uid": os.geteuid()}
    assert share["per_second"]["operations"] > 1
    assert share["per_second"]["bytes_read"] > 4096
    assert 0 < share["seconds"]["p50"] <= share["seconds"]["p99"] < SECONDS
    assert share["by_class"]["read"]["operations"] > 1
    assert [line.split()[0] for line in table] == ["NAME", "data"]


def test_several_supervisors_are_shown_together_and_one_can_be_named(run: Running, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    options = ["--socket", os.fspath(tmp_path / "o"), "--control-dir", os.fspath(run.control), "--tag", "other"]
    with Running("fake", tmp_path / "other", *options) as other:
        other.ready()
        assert [line.split()[0] for line in top(run, "--once").stdout.splitlines()] == ["NAME", "data", "other"]
        assert [line.split()[0] for line in top(run, "--once", "other").stdout.splitlines()] == ["NAME", "other"]
        assert other.stop() == 0
    gone = top(run, "--once", "other")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "no share called 'other' runs here" in gone.stderr


def test_a_terminal_shows_it_again_and_again_until_q(terminal: Terminal) -> None:
    terminal.until(r"1 share\(s\), 0 client\(s\), every 0.3 s, by operations")
    terminal.until(r"NAME +OPS/s +READ/s")
    terminal.until(r"data +0")
    terminal.press("s")
    terminal.until("(by |H)read")  # or only what has changed of the line
    terminal.press("q")
    assert terminal.process.wait(SECONDS) == 0


def test_a_terminal_that_changes_its_size_is_drawn_anew_and_a_tiny_one_ends_nothing(terminal: Terminal) -> None:
    terminal.until("data +0")
    for rows, columns in (5, 20), (1, 1), (2, 3), (40, 200):
        terminal.resize(rows, columns)
        time.sleep(0.4)
    terminal.until(r"CLIENT")
    assert terminal.process.poll() is None
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(SECONDS) == 0


def test_a_terminal_is_as_it_was_when_the_share_that_was_named_goes(run: Running) -> None:
    terminal = Terminal(run, "data")
    try:
        terminal.until("data +0")
        assert run.stop() == 0
        terminal.until("no share called 'data' runs here")
        assert terminal.process.wait(SECONDS) == 1
    finally:
        terminal.close()


def test_without_a_terminal_tables_come_until_the_reader_is_gone(run: Running) -> None:
    command = [PROGRAM, "top", "--control-dir", os.fspath(run.control), "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(8)]
        assert sum(line.startswith("NAME") for line in lines) == 2
        process.stdout.close()
        assert process.wait(SECONDS) == 0


def test_an_interval_that_is_none_is_wrong_usage(run: Running) -> None:
    for interval in ("0", "-1", "nan", "x", "1e9"):
        assert top(run, "--interval", interval).returncode == 2
