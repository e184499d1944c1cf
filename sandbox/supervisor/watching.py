"""Workers that hang with a client: one timer for all shares of a supervisor, and none while nobody is served.

A stuck worker is told by its oldest request in flight, which its statistics page names; one that waits for a limit does
not count there. It is replaced unless the kernel waits for the storage on its behalf: then the next worker would hang
as well, and the guest, which goes on by itself once a server is back, would have lost its mount.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from virtiofs_sandbox.supervisor.threads import threads
from virtiofs_sandbox.supervisor.timing import Timing

# In a row, before a worker is called stuck: a thread that is awake between two waits for its disk is not.
_LOOKS = 3


class Watched(Protocol):
    """A worker with a client; Slot is one. *stuck_after* is in seconds, None: it is never stuck."""

    @property
    def pid(self) -> int | None: ...
    @property
    def stuck_after(self) -> float | None: ...
    def notice_hang_up(self) -> bool:
        """Whether its client is gone, which a worker that hangs does not tell; it is on its way out then."""

    def oldest_start(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds, 0 while no request is in flight, as it claims."""

    def reads(self) -> bool:
        """Whether it has read all that it was told."""

    def fail(self, reason: str) -> None:
        """Ends the jail by its worker's fault."""

    def waits_for_storage(self, seconds: float, doing: str) -> None:
        """A request has been in flight for so long, and the worker is not to blame. *doing*: what its threads do."""


class Watching:
    """To be used inside the event loop."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._watches: dict[Watched, _Watch] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, worker: Watched) -> None:
        """From now on, until it is forgotten."""
        self._watches.setdefault(worker, _Watch(worker, self._timing))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._timing.watch, self._look)

    def forget(self, worker: Watched) -> None:
        self._watches.pop(worker, None)
        if not self._watches and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._timing.watch, self._look)
        for watch in tuple(self._watches.values()):
            watch.look(time.monotonic_ns())


class _Watch:
    """What was seen of one worker, look after look."""

    def __init__(self, worker: Watched, timing: Timing) -> None:
        self._worker = worker
        self._timing = timing
        # Of the oldest request in flight: its start, and at how many looks nothing in the kernel explained it.
        self._start = 0
        self._looks = 0
        self._told = 0
        self._deaf_since: int | None = None

    def look(self, now: int) -> None:
        """*now* is CLOCK_MONOTONIC in nanoseconds, as the page has it."""
        after = self._worker.stuck_after
        if self._worker.notice_hang_up() or after is None or self._is_deaf(now):
            return
        start = self._worker.oldest_start()
        if start != self._start:
            self._start, self._looks = start, 0
        age = (now - start) / 1e9
        if not start or age < 0:
            return
        of_jail = () if self._worker.pid is None else threads(self._worker.pid)
        doing = ", ".join(str(thread) for thread in of_jail if thread.works) or "unknown"
        if any(thread.sleeps_soundly for thread in of_jail):
            self._looks = 0
            if age >= after and self._told != start:
                self._told = start
                self._worker.waits_for_storage(age, doing)
            return
        self._looks += 1
        if age >= after and self._looks >= _LOOKS:
            reason = f"stuck: a request has been in flight for {age:.0f} s, and waits for no storage"
            self._worker.fail(f"{reason} (at work: {doing})")

    def _is_deaf(self, now: int) -> bool:
        """A control thread does nothing that could keep it from its socket for long."""
        if self._worker.reads():
            self._deaf_since = None
            return False
        self._deaf_since = now if self._deaf_since is None else self._deaf_since
        seconds = (now - self._deaf_since) / 1e9
        if seconds < self._timing.ready:
            return False
        self._worker.fail(f"stuck: it has not read what it was told for {seconds:.0f} s")
        return True
