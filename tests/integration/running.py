"""A supervisor as a process: its output, its signals, its children; with real jails or, of `run`, with fake ones."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from virtiofs_sandbox.cli.run import WORKER

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
COMMANDS = {
    "fake": [sys.executable, "-m", "tests.fakes.run"],
    "real": [os.fspath(PROGRAMS / "virtiofs-sandbox"), "run"],
}
_GET_FEATURES = struct.pack("<III", 1, 1, 0)


class Process:
    """A supervisor and all it started; *prefix* is a command that becomes it.

    Leaving the context kills what is still there, and only that.
    """

    def __init__(
        self,
        kind: str,
        directory: Path,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """*environment* is set besides what there is."""
        if kind == "real" and not (PROGRAMS / WORKER).exists():
            pytest.skip("installed without a worker")
        self.kind = kind
        self.output = directory / "output"
        self.log = directory / "log"
        # Not where those of the machine are.
        self.control = directory / "control"
        self._family: dict[int, str] = {}
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                cwd=ROOT,
                pass_fds=pass_fds,
                start_new_session=True,
                env=None if environment is None else {**os.environ, **environment},
            )

    def connect(self, path: Path) -> Caller:
        return Caller(self.kind, path)

    def family(self) -> dict[int, str]:
        """Everything below the process, pid -> name, all that was ever seen."""
        self._family.update(descendants(self.process.pid))
        return self._family

    def of(self, depth: int, name: str) -> list[int]:
        """Pids of living descendants at *depth* (children: 1) with this name."""
        level = [self.process.pid]
        for _ in range(depth):
            level = [child for pid in level for child in children(pid)]
        return [pid for pid in level if process_name(pid) == name]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.family()
        self.process.send_signal(number)
        return self.process.wait(15)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or (what != "end" and self.process.poll() is not None):
                raise AssertionError(f"did not {what}; log:\n{self.log.read_text()}")
            time.sleep(0.01)

    def logged(self, text: str, count: int = 1) -> None:
        """Waits until *text* stands in the log *count* times."""
        self.until(lambda: self.log.read_text().count(text) >= count, f"log {text!r} {count} times")

    def nobody_left(self) -> None:
        """Waits until the whole family is gone."""
        self.until(lambda: not any(process_name(pid) == name for pid, name in self._family.items()), "end", 5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.family()
            self.process.kill()
            self.process.wait()
        for pid, name in self._family.items():
            if process_name(pid) == name:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Running(Process):
    """One `run`, of the directory "share"."""

    def __init__(
        self,
        kind: str,
        directory: Path,
        *options: str,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        share = directory / "share"
        share.mkdir(exist_ok=True)
        control = os.fspath(directory / "control")
        command = [*self.command(kind, share), "--control-dir", control, *options]
        super().__init__(kind, directory, command, pass_fds=pass_fds, prefix=prefix)

    def command(self, kind: str, share: Path) -> list[str]:
        """What is run, before the options."""
        return [*COMMANDS[kind], os.fspath(share), "--tag", "data"]

    def ready(self) -> Self:
        self.until(lambda: self.output.read_text().startswith("ready: "), "get ready")
        return self


class Caller:
    """A monitor's connection, which learns whether somebody serves it."""

    def __init__(self, kind: str, path: Path) -> None:
        self._kind = kind
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(15)
        file = os.open(path, os.O_PATH)
        try:
            self.connection.connect(f"/proc/self/fd/{file}")
        finally:
            os.close(file)

    def served(self) -> bool:
        """Waits for a sign of life from a worker; False when the connection is closed instead."""
        if self._kind == "real":
            with contextlib.suppress(BrokenPipeError):
                self.connection.send(_GET_FEATURES)
        try:
            return self.connection.recv(100) != b""
        except ConnectionResetError:
            return False

    def closed(self) -> bool:
        try:
            return self.connection.recv(100) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.connection.close()


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def descendants(pid: int) -> dict[int, str]:
    found = {}
    for child in children(pid):
        name = process_name(child)
        if name is not None:
            found[child] = name
            found.update(descendants(child))
    return found


def process_name(pid: int) -> str | None:
    """The name of a living process; None when it is gone or a zombie."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = line.partition("(")[2].rpartition(")")
    return None if rest.split()[0] in "ZX" else name
