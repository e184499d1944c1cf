"""Monitors that come, wait, are served and go."""

from __future__ import annotations

from dataclasses import dataclass

from virtiofs_sandbox.ipc.messages import ClientStep
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events.event import Event, WorkerEvent


@dataclass(frozen=True)
class AcceptFailed(Event):
    reason: str
    pause: float
    errno: int | None

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return f"cannot accept connections: {self.reason}; trying again in {self.pause:g} s"


@dataclass(frozen=True)
class ClientWaits(Event):
    """*holders* have all the places that there are; none where there is one free."""

    client: Peer
    holders: tuple[Peer, ...]

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return f"{self.client} connected and waits" + (f" for {_either(self.holders)} to go" if self.holders else "")


@dataclass(frozen=True)
class ClientsGaveUp(Event):
    number: int

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return f"{self.number} connection(s) hung up while waiting"


@dataclass(frozen=True)
class ClientRefused(Event):
    """*holders* have all the places that there are, and stay."""

    client: Peer
    holders: tuple[Peer, ...]
    after: float

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        if len(self.holders) == 1:
            because = f"{self.holders[0]} is connected, and a share serves one monitor at a time"
        else:
            because = f"{len(self.holders)} are connected, as many as share.max_clients says"
        return (
            f"{self.client} turned away after {self.after:g} s: {because}; "
            "give the machine a share of its own, or raise share.max_clients"
        )


def _either(peers: tuple[Peer, ...]) -> str:
    return str(peers[0]) if len(peers) == 1 else f"one of {len(peers)}"


@dataclass(frozen=True)
class ClientServed(WorkerEvent):
    waited: float

    def __str__(self) -> str:
        return f"connected; handed to the worker after {self.waited * 1000:.0f} ms"


@dataclass(frozen=True)
class ClientReturned(WorkerEvent):
    """Its worker ended with the connection unreceived, so that not a byte of it can have been read."""

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return "waits for the next worker: this one ended without having taken the connection"


@dataclass(frozen=True)
class RequestHangs(WorkerEvent):
    """The kernel waits for the storage on the worker's behalf. *doing*: the calls that its threads are in."""

    seconds: float
    doing: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return (
            f"a request has been in flight for {self.seconds:.0f} s, and the worker waits for the share's storage "
            f"({self.doing}); it goes on when the storage answers (worker.stuck_after)"
        )


@dataclass(frozen=True)
class ClientProgress(WorkerEvent):
    step: ClientStep
    minor: int

    def __str__(self) -> str:
        match self.step:
            case ClientStep.DRIVER_STARTED:
                return "the guest's driver started the device"
            case ClientStep.MOUNTED:
                return f"mounted by the guest (FUSE 7.{self.minor})"
            case ClientStep.UNMOUNTED:
                return "unmounted by the guest"
            case ClientStep.RESET:
                return "the device was reset"
