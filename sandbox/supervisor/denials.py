"""What seccomp and Landlock refused to our workers, as events: one line each, so many a second.

From the kernel's audit records where they can be read. Elsewhere a refused call raises a signal in the worker, whose
handler writes a log line; that one is the worker's own claim, and turned into the same event. Deaths by seccomp show in
the worker's end as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from virtiofs_sandbox.confine import records, seccomp
from virtiofs_sandbox.confine.records import AccessRecord, CallRecord, DomainRecord, Record
from virtiofs_sandbox.supervisor.events import (
    AccessRefused,
    CallOutcome,
    CallRefused,
    DenialsLeftOut,
    Event,
    Sink,
    WorkerEnded,
    WorkerEvent,
    WorkerSaid,
    WorkerWarm,
)
from virtiofs_sandbox.syscalls import audit

_PER_SECOND, _BURST = 1.0, 10.0
# Records and what we know of jails come by different ways: both are kept until the other can be there.
_LINGER_SECONDS = 2.0
_UNKNOWN_KEPT = 64
_AT_ONCE = 64
_X86_64 = 0xC000003E
_OWN_REPORT = re.compile(r"seccomp refused call (\d{1,10}) \(arch 0x([0-9a-f]{1,8})\)(?: \(.*\))?")
_OUTCOMES = {
    records.ERRNO: CallOutcome.REFUSED,
    records.TRAP: CallOutcome.REFUSED,
    records.LOG: CallOutcome.CARRIED_OUT,
}


@dataclass
class _Jail:
    """One launch, by the pids of its keeper and of whatever the keeper has cloned."""

    share: str
    generation: int
    keeper: int
    pids: set[int]
    settled: bool = False


class Denials:
    """To be entered inside the event loop. `show` is a sink: put it between whoever has news and whoever shows them."""

    def __init__(self, sink: Sink, open_records: Callable[[], socket.socket] = records.open_source) -> None:
        """*open_records* raises OSError where records cannot be read."""
        self._sink = sink
        self._open_records = open_records
        self._loop = asyncio.get_running_loop()
        self._records: socket.socket | None = None
        self._jails: dict[tuple[str, int], _Jail] = {}
        self._unknown: deque[tuple[float, Record]] = deque(maxlen=_UNKNOWN_KEPT)
        self._domains: dict[int, _Jail] = {}
        self._rates: dict[str, _Rate] = {}

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._records = self._open_records()
            self._loop.add_reader(self._records.fileno(), self._ready, self._records)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for rate in self._rates.values():
            rate.close()
        if self._records is not None:
            self._loop.remove_reader(self._records.fileno())
            self._records.close()

    def launched(self, share: str, generation: int, keeper: int) -> None:
        """A jail was made; its first process has the pid *keeper*."""
        self._jails[share, generation] = _Jail(share, generation, keeper, {keeper})
        self._look_again()

    def show(self, event: Event) -> None:
        """Passes *event* on; learns from it which jails there are, and what a worker says about its own denials."""
        match event:
            case WorkerSaid() if report := _OWN_REPORT.fullmatch(event.text):
                self._tell(_own_report(event, int(report[1]), int(report[2], 16)))
                return
            case WorkerWarm():
                self._settle(event)
            case WorkerEnded():
                self._loop.call_later(_LINGER_SECONDS, self._forget, event.share, event.generation)
        self._sink(event)

    def _settle(self, event: WorkerWarm) -> None:
        """Once ready, a jail makes no more processes: its pids are known for good."""
        jail = self._jails.get((event.share, event.generation))
        if jail is not None:
            jail.pids |= _children(jail.keeper)
            jail.settled = True
            self._look_again()

    def _forget(self, share: str, generation: int) -> None:
        jail = self._jails.pop((share, generation), None)
        self._domains = {number: owner for number, owner in self._domains.items() if owner is not jail}

    # Records.

    def _ready(self, source: socket.socket) -> None:
        """Takes what has come, a limited number at a time: other programs of the machine are refused things too."""
        for _ in range(_AT_ONCE):
            try:
                datagram = source.recv(audit.MAX_RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: they came faster than they were read. Whose is not known: one is counted for each jail.
                for jail in self._jails.values():
                    self._rate(jail.share).leave_out(jail.generation)
                return
            record = records.parse(datagram)
            if record is not None and not self._matched(record):
                self._unknown.append((self._loop.time(), record))

    def _look_again(self) -> None:
        """Records may outrun the news of a launch, and Landlock names a domain's maker after its first denial."""
        waiting, oldest = list(self._unknown), self._loop.time() - _LINGER_SECONDS
        self._unknown.clear()
        for at, record in waiting:
            if at >= oldest and not self._matched(record):
                self._unknown.append((at, record))

    def _matched(self, record: Record) -> bool:
        """Whether *record* is about a jail of ours; if so it has been told."""
        match record:
            case CallRecord():
                jail = self._jail_of(record.pid)
                if jail is not None:
                    outcome = _OUTCOMES.get(record.action, CallOutcome.KILLED)
                    call = _call(record.number, record.architecture)
                    self._tell(CallRefused(jail.share, jail.generation, None, call, record.thread, outcome))
            case AccessRecord():
                jail = self._domains.get(record.domain)
                if jail is not None:
                    self._tell(AccessRefused(jail.share, jail.generation, None, record.rights, record.path))
            case DomainRecord(pid=None):
                self._domains.pop(record.domain, None)
                return True
            case DomainRecord():
                jail = self._jail_of(record.pid or 0)
                if jail is not None:
                    self._domains[record.domain] = jail
                    self._look_again()
        return jail is not None

    def _jail_of(self, pid: int) -> _Jail | None:
        for jail in self._jails.values():
            if pid not in jail.pids and not jail.settled:
                jail.pids |= _children(jail.keeper)
            if pid in jail.pids:
                return jail
        return None

    # Telling.

    def _tell(self, event: WorkerEvent) -> None:
        if self._rate(event.share).admits(event.generation):
            self._sink(event)

    def _rate(self, share: str) -> _Rate:
        return self._rates.setdefault(share, _Rate(share, self._sink, self._loop))


class _Rate:
    """A token bucket for one share, and the count of what it left out."""

    def __init__(self, share: str, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self._share, self._sink, self._loop = share, sink, loop
        self._tokens, self._filled = _BURST, loop.time()
        self._left_out = 0
        self._generation = 0
        self._note: asyncio.TimerHandle | None = None

    def admits(self, generation: int) -> bool:
        now = self._loop.time()
        self._tokens = min(_BURST, self._tokens + (now - self._filled) * _PER_SECOND)
        self._filled = now
        if self._tokens < 1:
            self.leave_out(generation)
            return False
        self._tokens -= 1
        return True

    def leave_out(self, generation: int) -> None:
        self._left_out += 1
        self._generation = generation
        if self._note is None:
            self._note = self._loop.call_later(_BURST / _PER_SECOND, self._tell)

    def close(self) -> None:
        if self._note is not None:
            self._note.cancel()
            self._tell()

    def _tell(self) -> None:
        self._note = None
        left_out, self._left_out = self._left_out, 0
        self._sink(DenialsLeftOut(self._share, self._generation, None, left_out))


def _own_report(event: WorkerSaid, number: int, architecture: int) -> CallRefused:
    call = _call(number, architecture)
    return CallRefused(event.share, event.generation, event.client, call, None, CallOutcome.REFUSED)


def _call(number: int, architecture: int) -> str:
    if architecture != _X86_64:
        return f"number {number} of architecture {architecture:#x}"
    return seccomp.call_name(number) or f"number {number}"


def _children(pid: int) -> set[int]:
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()
