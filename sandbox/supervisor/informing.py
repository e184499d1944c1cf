"""Keeping a service manager informed of how a supervisor stands, by its notifier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from virtiofs_sandbox.supervisor.notify import Notifier

# It is told how many clients there are, but not of each that comes and goes.
_STATUS_SECONDS = 1.0


class Manager:
    """Keeps the service manager informed while entered."""

    def __init__(self, notifier: Notifier, summary: Callable[[], str]) -> None:
        self._notifier = notifier
        self._summary = summary
        self._loop = asyncio.get_running_loop()
        self._told = ""
        self._ready = False
        self._note: asyncio.TimerHandle | None = None
        self._sign: asyncio.TimerHandle | None = None

    def __enter__(self) -> Manager:
        self._give_sign()
        return self

    def __exit__(self, *_: object) -> None:
        self._ready = False
        for timer in (self._note, self._sign):
            if timer is not None:
                timer.cancel()

    def reloading(self) -> None:
        self._notifier.reloading()

    def ready(self) -> None:
        self._ready = True
        self._told = self._summary()
        self._notifier.ready(self._told)

    def noticed(self) -> None:
        """Something happened that may have changed the summary."""
        if self._ready and self._note is None:
            self._note = self._loop.call_later(_STATUS_SECONDS, self._tell)

    def _tell(self) -> None:
        self._note = None
        summary = self._summary()
        if summary != self._told:
            self._told = summary
            self._notifier.status(summary)

    def _give_sign(self) -> None:
        """By a timer of the loop that serves: one that hangs gives none."""
        period = self._notifier.watchdog()
        if period is not None:
            self._notifier.alive()
            self._sign = self._loop.call_later(period, self._give_sign)
