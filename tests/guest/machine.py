"""A booted guest, whatever runs it: scripts in, outcomes out, and every wait bounded."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.guest import initramfs
from tests.guest.agent import Agent, GuestError, Outcome
from tests.guest.images import Image

CONSOLE_TAIL = 3000
# A test run that is killed leaves no guest behind.
ENDS_WITH_TEST = ("setpriv", "--pdeathsig", "KILL")
MEMORY_MIB = 256


@dataclass(frozen=True)
class Transcript:
    """What a list of named steps did. `exit_status` is that of the first step that failed, else 0."""

    exit_status: int
    steps: Mapping[str, Outcome]
    console: str


class Machine:
    """A running guest. Leaving the context kills what is left of it.

    Subclasses know how one is started; this class knows nothing of vhost-user.
    """

    kind = "machine"

    def __init__(self, image: Image, work: Path) -> None:
        self.image = image
        self.work = work
        self.console_path = work / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.agent: Agent
        self.release = ""

    def command(self, initrd: Path, agent_fd: int) -> list[str]:
        """The command line; *agent_fd* is a connected socket that becomes the agent's serial line."""
        raise NotImplementedError

    def inherited(self) -> Sequence[socket.socket]:
        """Further sockets the command line names by number."""
        return ()

    def boot(self, seconds: float = 90) -> Self:
        """Start and wait for the agent. Raises GuestError with the end of the console."""
        self.work.mkdir(parents=True, exist_ok=True)
        initrd = initramfs.build(self.image.busybox, self.image.modules, self.work / "initrd", self.image.files)
        ours, theirs = socket.socketpair()
        passed = [theirs, *self.inherited()]
        with self.console_path.open("wb") as console:
            self._process = subprocess.Popen(
                [*ENDS_WITH_TEST, *self.command(initrd, theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                pass_fds=[end.fileno() for end in passed],
                start_new_session=True,
                cwd=self.work,
            )
        for end in passed:
            end.close()
        self.agent = Agent(ours)
        self.wait_ready(seconds)
        return self

    def wait_ready(self, seconds: float = 90) -> None:
        """Wait until the agent speaks: after boot, and after a reset."""
        try:
            self.release = self.agent.wait_ready(seconds)
        except OSError as error:
            raise self.failed("boot", error) from error

    def run(self, script: str, seconds: float = 60) -> Outcome:
        """Run a shell script in the guest. Raises GuestError when there is no answer in time."""
        try:
            return self.agent.run(script, seconds)
        except OSError as error:
            raise self.failed("run a script", error) from error

    def check(self, script: str, seconds: float = 60) -> str:
        """Run a script that must succeed and return what it printed."""
        outcome = self.run(script, seconds)
        if outcome.status != 0:
            raise GuestError(f"{self.kind} guest: status {outcome.status} from: {script}\n{outcome.output}")
        return outcome.output

    def run_steps(self, steps: Mapping[str, str], seconds: float = 60) -> Transcript:
        """Run named scripts in order, up to the first that fails."""
        done: dict[str, Outcome] = {}
        status = 0
        for name, script in steps.items():
            done[name] = self.run(script, seconds)
            status = done[name].status
            if status != 0:
                break
        return Transcript(status, done, self.console)

    def power_off(self, seconds: float = 30) -> None:
        """Have the guest power itself off, as its user would. Raises GuestError if it stays on."""
        self.agent.start("sync; poweroff -f")
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise self.failed("power off", error) from error

    def kill(self) -> None:
        """End it as a crashed monitor ends: without a word to anyone."""
        process = self._process
        if process is not None and process.returncode is None:
            # Its own session, so that user-mode-linux's traced helper processes go with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise GuestError(f"{self.kind} guest: not started")
        return self._process

    @property
    def console(self) -> str:
        return self.console_path.read_text(encoding="utf-8", errors="replace")

    def failed(self, action: str, cause: Exception) -> GuestError:
        status = self.process.poll()
        state = "still runs" if status is None else f"ended with status {status}"
        return GuestError(f"{self.kind} guest failed to {action} ({cause}); it {state}\n{self.console[-CONSOLE_TAIL:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._process is not None:
            self.agent.close()
