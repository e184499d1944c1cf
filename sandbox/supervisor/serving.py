"""The resident process of `serve`: from a zygote to all shares of a directory in service, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.ipc.requests import RequestError
from virtiofs_sandbox.policies.places import group_directory
from virtiofs_sandbox.supervisor.activation import PassedSockets
from virtiofs_sandbox.supervisor.active import Common
from virtiofs_sandbox.supervisor.berth import Ground
from virtiofs_sandbox.supervisor.control import ControlSocket
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import Event, Sink, SocketUnclaimed, Stopped, Stopping
from virtiofs_sandbox.supervisor.fleet import ALL, Fleet
from virtiofs_sandbox.supervisor.listener import Listener
from virtiofs_sandbox.supervisor.notify import Notifier
from virtiofs_sandbox.supervisor.routing import Routing
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.wishes import Wishes, done_before, reload_until, stop_all
from virtiofs_sandbox.supervisor.zygotes import Launching, Z, Zygotes

# The manager is told how many clients there are, but not of each that comes and goes.
_STATUS_SECONDS = 1.0


@dataclass(frozen=True)
class Fleeting:
    """What all shares of a directory are served by. *look_anew* is called before policies are read, *control* makes the
    control socket (raises ListenError); *warm*: so many shares keep a worker for a client that has not come.
    """

    directory: Path
    ground: Ground
    look_anew: Callable[[], None]
    control: Callable[[], Listener]
    warm: int
    refusals: tuple[type[Exception], ...]
    budgets: Path | None = None


async def run_fleet(
    fleeting: Fleeting,
    launching: Launching[Z],
    *,
    sink: Sink,
    timing: Timing,
    notifier: Notifier,
    passed: PassedSockets,
) -> bool:
    """Serves all shares of a directory until a signal. False when something was left behind.

    Raises ListenError when there is no control socket to be had, since another supervisor has it or it cannot be made;
    PolicyError and WideningError when the directory as a whole cannot be read.
    """
    fleet: Fleet | None = None
    manager = _Manager(notifier, lambda: "starting" if fleet is None else fleet.summary)

    def tell(event: Event) -> None:
        sink(event)
        manager.noticed()

    zygotes = Zygotes(ALL, launching, tell)
    with contextlib.ExitStack() as stack:
        stack.callback(zygotes.close)
        control = fleeting.control()
        denials = stack.enter_context(Denials(tell))
        wishes = stack.enter_context(Wishes(reloads=True))
        common = Common(
            zygotes,
            denials,
            tell,
            timing,
            fleeting.budgets or group_directory(),
            fleeting.refusals,
            Spares(fleeting.warm),
        )
        fleet = Fleet(
            fleeting.directory, common, fleeting.ground, look_anew=fleeting.look_anew, stop=wishes.ask_to_stop
        )
        asked = ControlSocket(ALL, control, Routing(fleet), tell)
        wait = asyncio.ensure_future(wishes.stop())
        clean = True
        try:
            with manager:
                if await done_before(fleet.start(), wait):
                    for one in passed.unclaimed(fleet.policies):
                        tell(SocketUnclaimed(ALL, one.name, one.address))
                    manager.ready()
                    await reload_until(wait, wishes, lambda: _reload_all(fleet, manager))
            sink(Stopping(ALL, wait.result(), timing.stop_grace))
        finally:
            notifier.stopping()
            wait.cancel()
            clean = await stop_all(fleet, wishes, timing.stop_grace)
            await asked.close()
    sink(Stopped(ALL))
    return clean


class _Manager:
    """Keeps the service manager informed while entered."""

    def __init__(self, notifier: Notifier, summary: Callable[[], str]) -> None:
        self._notifier = notifier
        self._summary = summary
        self._loop = asyncio.get_running_loop()
        self._told = ""
        self._ready = False
        self._note: asyncio.TimerHandle | None = None
        self._sign: asyncio.TimerHandle | None = None

    def __enter__(self) -> _Manager:
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


async def _reload_all(fleet: Fleet, manager: _Manager) -> None:
    manager.reloading()
    # Told by its events.
    with contextlib.suppress(RequestError):
        await fleet.reload()
    manager.ready()
