"""What seccomp and Landlock refused to a worker."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.events.event import WorkerEvent


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
