"""What the supervisor has to tell, as data. Sentences are made here; whether and how they are shown is the caller's."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from virtiofs_sandbox.confine.plan import HeldRule, MountAction, MountChange
from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.ipc.messages import ClientStep
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.policies.share import LogLevel, Share, Tier
from virtiofs_sandbox.supervisor.clients import Peer


@dataclass(frozen=True)
class Event:
    """Something happened to *share*; str() is the sentence."""

    share: str

    _LEVEL: ClassVar[LogLevel] = LogLevel.INFO

    @property
    def level(self) -> LogLevel:
        return self._LEVEL


Sink = Callable[[Event], None]


@dataclass(frozen=True)
class WorkerEvent(Event):
    """It happened to the launch with this *generation*, which serves *client*, if any yet."""

    generation: int
    client: Peer | None


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
class WorkerWarm(WorkerEvent):
    pid: int
    seconds: float

    _LEVEL = LogLevel.DEBUG

    def __str__(self) -> str:
        return f"worker ready (keeper pid {self.pid}, {self.seconds * 1000:.0f} ms after the launch began)"


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


class CallOutcome(enum.Enum):
    """What became of a system call outside the list."""

    REFUSED = "refused"
    KILLED = "deadly"
    CARRIED_OUT = "carried out"


@dataclass(frozen=True)
class CallRefused(WorkerEvent):
    """A system call that its role's list does not have. *thread* is the name it gave itself, where that is known."""

    call: str
    thread: str | None
    outcome: CallOutcome

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        who = "the worker" if self.thread is None else f"the worker's thread {self.thread!r}"
        match self.outcome:
            case CallOutcome.REFUSED:
                return f"seccomp refused system call {self.call} to {who}: not on its list (docs/syscalls.md)"
            case CallOutcome.KILLED:
                return f"seccomp killed {who} for system call {self.call} (docs/syscalls.md)"
            case CallOutcome.CARRIED_OUT:
                return f'system call {self.call} of {who} is on no list: carried out, since sandbox.seccomp is "log"'


@dataclass(frozen=True)
class AccessRefused(WorkerEvent):
    """Landlock refused the *rights* a worker would have needed, on *path* if it was about a file."""

    rights: str
    path: str | None

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        where = "" if self.path is None else f" on {self.path!r}"
        return f"Landlock refused {self.rights} to the worker{where}: its rights are those of the share alone"


@dataclass(frozen=True)
class DenialsLeftOut(WorkerEvent):
    number: int

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"{self.number} more denial(s) of the worker left out: they came too fast"


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
class SettingsApplied(WorkerEvent):
    """*revoked*: open handles on what is hidden now, as the worker claims. *quietly*: a part of a budget changed."""

    serial: int
    revoked: int
    seconds: float
    quietly: bool = False

    @property
    def level(self) -> LogLevel:
        return LogLevel.DEBUG if self.quietly else LogLevel.INFO

    def __str__(self) -> str:
        revoked = f"; {self.revoked} open handle(s) closed" if self.revoked else ""
        return f"works by the new settings (number {self.serial}, after {self.seconds * 1000:.0f} ms){revoked}"


@dataclass(frozen=True)
class SettingsNotApplied(WorkerEvent):
    """The new settings forbid nothing that the old ones allow, so the worker may stay."""

    reason: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        return f"{self.reason}; the settings before hold until the client leaves"


@dataclass(frozen=True)
class MountChanged(WorkerEvent):
    change: MountChange

    def __str__(self) -> str:
        return f"{_MADE[self.change.action]} {os.fsdecode(self.change.path)!r}"


@dataclass(frozen=True)
class MountNotChanged(WorkerEvent):
    """The worker's own check holds all the same; *reason* is a sentence."""

    change: MountChange
    reason: str

    _LEVEL = LogLevel.WARNING

    def __str__(self) -> str:
        path = os.fsdecode(self.change.path)
        return f"cannot {self.change.action.value} {path!r}: {self.reason}; {_INSTEAD[self.change.action]}"


_MADE = {
    MountAction.ATTACH: "attached",
    MountAction.DETACH: "detached",
    MountAction.FREEZE: "a read-only mount holds",
    MountAction.THAW: "no read-only mount holds any more",
    MountAction.MASK: "an empty mount hides",
    MountAction.UNMASK: "no empty mount hides any more",
}
_INSTEAD = {
    MountAction.ATTACH: "it is there when the client has left",
    MountAction.DETACH: "the worker hides it, and it goes when the client leaves",
    MountAction.FREEZE: "the worker alone holds it until the client leaves",
    MountAction.THAW: "it takes changes when the client has left",
    MountAction.MASK: "the worker alone hides it until the client leaves",
    MountAction.UNMASK: "it shows when the client has left",
}


@dataclass(frozen=True)
class LayersHold(WorkerEvent):
    """Which path rules are held by a mount besides the worker."""

    rules: tuple[HeldRule, ...]

    def __str__(self) -> str:
        both = [repr(rule.pattern) for rule in self.rules if rule.held]
        alone = [f"{rule.pattern!r}" + (f" ({rule.why})" if rule.why else "") for rule in self.rules if not rule.held]
        return (
            f"held by worker and mount: {', '.join(both) or 'none'}; by the worker alone: {', '.join(alone) or 'none'}"
        )


@dataclass(frozen=True)
class TakesEffectLater(WorkerEvent):
    """*changes* need a new jail."""

    changes: tuple[str, ...]

    def __str__(self) -> str:
        return f"takes effect when the client leaves: {'; '.join(self.changes)}"


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
class Reloaded(Event):
    """The policy was read again; *changes* in words. *log_level* holds from here on."""

    changes: tuple[str, ...]
    log_level: LogLevel

    def __str__(self) -> str:
        return f"policy reloaded: {'; '.join(self.changes) or 'nothing changed'}"


@dataclass(frozen=True)
class ReloadRefused(Event):
    reason: str

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        return f"reload refused: {self.reason}; everything stays as it was"


@dataclass(frozen=True)
class LimitsChanged(Event):
    """By a request of *by*; *changes* in words, *rates* in bytes or operations a second; None: no limit any more."""

    by: Peer
    changes: tuple[str, ...]
    rates: Mapping[str, int | None]

    def __str__(self) -> str:
        return f"limits changed by {self.by}: {'; '.join(self.changes)}"


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
class StillThere(Event):
    """Stopped, but a killed process will not go: it hangs in the kernel."""

    pids: tuple[int, ...]

    _LEVEL = LogLevel.ERROR

    def __str__(self) -> str:
        pids = ", ".join(map(str, self.pids))
        return f"killed, but not gone: pid {pids}; it hangs in the kernel, most likely on the share's storage"


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
