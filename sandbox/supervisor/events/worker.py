"""Workers and their jails, from the launch to the end."""

from __future__ import annotations

from dataclasses import dataclass

from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.events.event import Event, WorkerEvent


@dataclass(frozen=True)
class WorkerWarm(WorkerEvent):
    pid: int
    seconds: float

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return f"worker ready (keeper pid {self.pid}, {self.seconds * 1000:.0f} ms after the launch began)"


@dataclass(frozen=True)
class WorkerSaid(WorkerEvent):
    """One line of the worker's log, made harmless."""

    line_level: LogLevel
    text: str

    @property
    def level(self) -> LogLevel:
        return self.line_level

    def __str__(self) -> str:
        return f"worker: {self.text}"


@dataclass(frozen=True)
class LinesDropped(WorkerEvent):
    lines: int

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"{self.lines} log lines of the worker dropped: they came too fast"


@dataclass(frozen=True)
class WorkerKilled(WorkerEvent):
    reason: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"killing the worker: {self.reason}"


@dataclass(frozen=True)
class WorkerEnded(WorkerEvent):
    """*expected*: nothing is wrong with the worker. *statistics* are its own claims."""

    ending: Ending
    expected: bool
    statistics: Statistics | None

    @property
    def level(self) -> LogLevel:
        if not self.expected:
            return LogLevel.ERROR
        if self.ending.is_uneventful:
            return LogLevel.INFO if self.client else LogLevel.DEBUG
        return LogLevel.WARNING

    def __str__(self) -> str:
        served = ""
        if self.client and self.statistics:
            counts = self.statistics
            served = (
                f" ({counts.requests} requests, {counts.errors} answered with an error, "
                f"{counts.bytes_read} bytes read, {counts.bytes_written} written)"
            )
        return f"worker ended: {self.ending}{served}"


@dataclass(frozen=True)
class WorkerReplaced(WorkerEvent):
    """It was warm, and launched by what the policy said before, or before somebody asked for a new one."""

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return "replaced: it was launched before the reload or restart"


@dataclass(frozen=True)
class SpareDismissed(WorkerEvent):
    """It was there, or on its way, for no client, and the supervisor's budget of spares went to other shares."""

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return "dismissed: nobody waits for it, and shares used more recently keep the warm workers (site.warm)"


@dataclass(frozen=True)
class LaunchFailed(WorkerEvent):
    reason: str

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return f"launch failed: {self.reason}"


@dataclass(frozen=True)
class BackingOff(Event):
    failures: int
    delay: float

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"{self.failures} failures in a row; next launch in {self.delay:.1f} s, connections wait until then"


@dataclass(frozen=True)
class StillThere(Event):
    """Stopped, but a killed process will not go: it hangs in the kernel."""

    pids: tuple[int, ...]

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        pids = ", ".join(map(str, self.pids))
        return f"killed, but not gone: pid {pids}; it hangs in the kernel, most likely on the share's storage"
