"""How a jail ended: a keeper's exit status in words (README.md, "Exit status of a keeper")."""

from __future__ import annotations

import enum
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class ExitCode(enum.IntEnum):
    CLIENT_LEFT = 0
    STOPPED = 10
    PROTOCOL = 11
    GUEST_MEMORY = 12
    DRAIN = 13
    CONFIG = 14
    DESCRIPTORS = 15
    SUPERVISOR_GONE = 16
    INTERNAL = 17


SENTENCES: Mapping[ExitCode, str] = MappingProxyType(
    {
        ExitCode.CLIENT_LEFT: "the client left",
        ExitCode.STOPPED: "stopped on request",
        ExitCode.PROTOCOL: "vhost-user protocol error: the monitor sent something that is refused",
        ExitCode.GUEST_MEMORY: "guest memory went away while a request was using it",
        ExitCode.DRAIN: "requests in flight did not finish in time when the device was stopped",
        ExitCode.CONFIG: "the worker refused its configuration (are worker and supervisor of one version?)",
        ExitCode.DESCRIPTORS: "the worker found an inherited descriptor missing or of the wrong kind",
        ExitCode.SUPERVISOR_GONE: "the worker saw its control socket closed",
        ExitCode.INTERNAL: "internal error in the worker",
    }
)
_SIGNALLED = 128
# The monitor or the guest brought these about, or we did: no sign of a worker that cannot run.
_EXPECTED = frozenset(
    {ExitCode.CLIENT_LEFT, ExitCode.STOPPED, ExitCode.PROTOCOL, ExitCode.GUEST_MEMORY, ExitCode.DRAIN}
)


@dataclass(frozen=True)
class Ending:
    """The end of a process: an exit *status*, or the *signal_number* that ended it (the other is None)."""

    status: int | None
    signal_number: int | None

    @classmethod
    def of(cls, result: os.waitid_result) -> Ending:
        """From what waitid reported with WEXITED."""
        if result.si_code == os.CLD_EXITED:
            return cls(result.si_status, None)
        return cls(None, result.si_status)

    @property
    def code(self) -> ExitCode | None:
        return ExitCode(self.status) if self.status in set(ExitCode) else None

    @property
    def is_failure(self) -> bool:
        """True when launching again may well end the same way."""
        return self.code not in _EXPECTED

    @property
    def is_uneventful(self) -> bool:
        """True when this is how things normally end."""
        return self.code in (ExitCode.CLIENT_LEFT, ExitCode.STOPPED)

    def __str__(self) -> str:
        if self.signal_number is not None:
            return f"killed by {_signal_name(self.signal_number)}"
        if self.code is not None:
            return SENTENCES[self.code]
        if self.status is not None and self.status > _SIGNALLED:
            number = self.status - _SIGNALLED
            reason = " (seccomp: a system call outside its filter)" if number == signal.SIGSYS else ""
            return f"worker killed by {_signal_name(number)}{reason}"
        return f"exit status {self.status}, which means nothing in this protocol"


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
