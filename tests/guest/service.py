"""A running `virtiofs-sandbox run`, seen from outside: its socket, its log, its processes by role."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.guest.images import ROOT

PROGRAM = Path(sys.executable).parent / "virtiofs-sandbox"
GUARD = ROOT / "tests" / "guard.py"
# A test run that is killed leaves nothing running behind.
ENDS_WITH_TEST = ("setpriv", "--pdeathsig", "TERM")
TAG = "share"
LOG_TAIL = 4000


class ServiceError(Exception):
    """The supervisor did not do what was asked; the message carries the end of its log."""


@dataclass(frozen=True)
class Processes:
    """Process ids by role. `keepers` and `workers` hold one each while a jail is up."""

    supervisor: int
    zygotes: tuple[int, ...]
    keepers: tuple[int, ...]
    workers: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        return (self.supervisor, *self.zygotes, *self.keepers, *self.workers)


class Service:
    """Serves the directory `work/share` on `work/fs.sock`.

    Guarded, it runs where everything but *work* is read-only: for tests that send hostile bytes. *prefix* is a command
    that becomes it.
    """

    def __init__(
        self,
        work: Path,
        options: Sequence[str] = (),
        *,
        guarded: bool = True,
        prefix: Sequence[str] = (),
        program: Path = PROGRAM,
    ) -> None:
        self.work = work
        self.share = work / "share"
        self.socket = work / "fs.sock"
        self.control = work / "control"
        self.log_path = work / "service.log"
        self.options = options
        self.guarded = guarded
        self.prefix = prefix
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor = 0

    def start(self, seconds: float = 20) -> Self:
        """Start and wait for the line that says connections are accepted. Raises ServiceError."""
        self.share.mkdir(parents=True, exist_ok=True)
        guard = [*ENDS_WITH_TEST, sys.executable, str(GUARD), "--work", str(self.work), "--"] if self.guarded else []
        control = ["--control-dir", str(self.control)]
        run = [*ENDS_WITH_TEST, *self.prefix, str(self.program), *self.command(), *control, *self.options]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                guard + run,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )
        self.wait(lambda: str(self.socket) in self.log and self.socket.is_socket(), "accept connections", seconds)
        self._supervisor = children(self._process.pid)[0] if self.guarded else self._process.pid
        return self

    def command(self) -> list[str]:
        """What is said to the program, before the options."""
        return ["run", str(self.share), "--socket", str(self.socket), "--tag", TAG]

    def stop(self, seconds: float = 20) -> int:
        """Ask for a clean stop as a service manager does; return the exit status."""
        if not self.supervisor:
            # Number 0 would be this whole process group.
            raise self.failed("start")
        os.kill(self.supervisor, signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise self.failed("stop") from error

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServiceError("the supervisor was not started")
        return self._process

    @property
    def supervisor(self) -> int:
        return self._supervisor

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> Processes:
        """Who is there now. A keeper carries the worker's name; the zygote, a fork of the supervisor, does not."""
        below = children(self.supervisor)
        keepers = tuple(pid for pid in below if is_jailed(pid))
        zygotes = tuple(pid for pid in below if pid not in keepers)
        workers = tuple(worker for keeper in keepers for worker in children(keeper))
        return Processes(self.supervisor, zygotes, keepers, workers)

    def wait_worker(self, seconds: float = 20) -> Processes:
        """Wait until exactly one jail is up, with its worker, and return who is there."""
        self.wait(lambda: len(self.processes().workers) == 1, "have one worker", seconds)
        return self.processes()

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or not self.running:
                raise self.failed(what)
            time.sleep(0.01)

    def failed(self, what: str) -> ServiceError:
        status = self.process.poll()
        state = "runs" if status is None else f"ended with status {status}"
        return ServiceError(f"the supervisor did not {what}; it {state}; its log ends:\n{self.log[-LOG_TAIL:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        if self.running:
            with contextlib.suppress(ServiceError, ProcessLookupError):
                self.stop()
        for pid in (self._supervisor, self.process.pid):
            if self.running and pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def children(pid: int) -> list[int]:
    """Direct children; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(word) for word in text.split()]


def is_jailed(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"virtiofs-worker\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
