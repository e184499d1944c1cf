"""A share on its way into service and out of it, and what this host does not hold of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.policies.share import LogLevel, Share, Tier
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events.event import Event


@dataclass(frozen=True)
class Listening(Event):
    """Connections are accepted from now on. *monitor_waiting*: somebody has connected already.

    *serves* is what they get, behind a jail of *tier*, by the file *policy*, if any.
    """

    socket: str
    monitor_waiting: bool
    serves: Share
    tier: Tier
    policy: Path | None

    def __str__(self) -> str:
        return f"accepting connections on {self.socket}"


@dataclass(frozen=True)
class HostLacks(Event):
    """A layer of the jail that this host cannot give."""

    sentence: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class LimitNotHeld(Event):
    """A limit of the policy that does not bind."""

    sentence: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class GroupNotFollowed(Event):
    """The supervisor is in a control group that its workers are not in."""

    sentence: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class GroupsLeft(Event):
    """Control groups that could not be removed."""

    directories: tuple[str, ...]

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"left behind, since processes are in them: {', '.join(self.directories)}"


@dataclass(frozen=True)
class ShareStarting(Event):
    """One of several shares is about to be started, as what it *serves* says."""

    serves: Share

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return "starting"


@dataclass(frozen=True)
class ShareFailed(Event):
    """It cannot be started. *repeated*: for the reason that was told last time."""

    reason: str
    retry: float
    repeated: bool

    @property
    def level(self) -> LogLevel:
        return LogLevel.DEBUG if self.repeated else LogLevel.ERROR

    def __str__(self) -> str:
        return f"not in service: {self.reason}; trying again in {self.retry:.1f} s, and on reload"


@dataclass(frozen=True)
class PolicyBroken(Event):
    """The file of a policy says what cannot be. *in_service*: its share is served by what it said before."""

    reason: str
    in_service: bool

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return f"{self.reason}; {'the share stays as it was' if self.in_service else 'the share is not started'}"


@dataclass(frozen=True)
class SocketKept(Event):
    """The policy names another socket, which cannot be made."""

    reason: str

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return f"the socket stays what it was: {self.reason}"


@dataclass(frozen=True)
class Withdrawn(Event):
    """The share accepts nobody any more, because of *reason*; *clients* stay until they leave."""

    reason: str
    clients: tuple[Peer, ...]

    def __str__(self) -> str:
        stay = f"; {', '.join(map(str, self.clients))} may stay until it leaves" if self.clients else ""
        return f"{self.reason}: no longer accepting connections{stay}"


@dataclass(frozen=True)
class InService(Event):
    """All shares of a supervisor were tried: so many *serve*, so many have *failed*; policies are in *directory*."""

    serve: int
    failed: int
    directory: Path

    @property
    def level(self) -> LogLevel:
        return LogLevel.WARNING if self.failed else LogLevel.INFO

    def __str__(self) -> str:
        if not self.serve and not self.failed:
            return f"no policy in {self.directory} yet: waiting for a reload"
        failed = f", {self.failed} not" if self.failed else ""
        return f"{self.serve} share(s) of {self.directory} in service{failed}"


@dataclass(frozen=True)
class SocketUnclaimed(Event):
    """A socket was passed to us that no policy speaks of."""

    name: str
    address: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return (
            f"inherited socket {self.name!r} ({self.address}) belongs to no share: name it after one "
            "(FileDescriptorName=), or listen where a policy's socket is; whoever connects to it waits"
        )
