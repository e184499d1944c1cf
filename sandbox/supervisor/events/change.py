"""What changes under workers that run: policies read again, limits, mounts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from virtiofs_sandbox.confine.plan import HeldRule, MountAction, MountChange
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events.event import Event, WorkerEvent


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
