"""What every event has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from virtiofs_sandbox.policies.share import LogLevel
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
