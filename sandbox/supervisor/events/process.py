"""The supervisor itself, its zygote, and who asks it."""

from __future__ import annotations

from dataclasses import dataclass

from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events.event import Event


@dataclass(frozen=True)
class ZygoteDied(Event):
    pid: int
    ending: Ending

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return f"the zygote (pid {self.pid}) died: {self.ending}; running workers are not touched"


@dataclass(frozen=True)
class ZygoteReplaced(Event):
    pid: int

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"a new zygote runs (pid {self.pid})"


@dataclass(frozen=True)
class NoControlSocket(Event):
    reason: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"no control socket, so no command reaches this share: {self.reason}"


@dataclass(frozen=True)
class MetricsFailed(Event):
    """The shares are served all the same."""

    reason: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"metrics: {self.reason}"


@dataclass(frozen=True)
class ControlRefused(Event):
    """Somebody asked who may not."""

    peer: Peer

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return f"{self.peer} turned away from the control socket"


@dataclass(frozen=True)
class ControlFailed(Event):
    reason: str

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return f"control socket: {self.reason}"


@dataclass(frozen=True)
class Stopping(Event):
    reason: str
    grace: float

    def __str__(self) -> str:
        return f"stopping on {self.reason}; the worker has {self.grace:g} s to drain, a second signal ends it at once"


@dataclass(frozen=True)
class LastClientLeft(Event):
    """The client has left for which the share was there."""

    reason: str

    def __str__(self) -> str:
        return f"ending with its client: {self.reason}"


@dataclass(frozen=True)
class LinesLost(Event):
    """Of the log itself; its share is the empty name."""

    lines: int

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"{self.lines} log lines lost: nobody took them"


@dataclass(frozen=True)
class Failed(Event):
    """The share could not be started, for *reason*."""

    reason: str

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Stopped(Event):
    def __str__(self) -> str:
        return "stopped"
