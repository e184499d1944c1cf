"""The resident process of `serve`: from a zygote to all shares of a directory in service, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.ipc.requests import RequestError
from virtiofs_sandbox.policies.places import group_directory
from virtiofs_sandbox.policies.values import MetricsAddress
from virtiofs_sandbox.supervisor import footprint
from virtiofs_sandbox.supervisor.activation import PassedSockets
from virtiofs_sandbox.supervisor.active import Common
from virtiofs_sandbox.supervisor.berth import Ground
from virtiofs_sandbox.supervisor.control import ControlSocket
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import Event, Sink, SocketUnclaimed, Stopped, Stopping
from virtiofs_sandbox.supervisor.fleet import ALL, Fleet
from virtiofs_sandbox.supervisor.informing import Manager
from virtiofs_sandbox.supervisor.listener import Listener
from virtiofs_sandbox.supervisor.metrics.responder import Responder
from virtiofs_sandbox.supervisor.metrics.service import answer_scrapes
from virtiofs_sandbox.supervisor.notify import Notifier
from virtiofs_sandbox.supervisor.recent import Recent
from virtiofs_sandbox.supervisor.routing import Routing
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.tallies import Tallies
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.wishes import Wishes, done_before, reload_until, stop_all
from virtiofs_sandbox.supervisor.zygotes import Launching, Z, Zygotes


@dataclass(frozen=True)
class Fleeting:
    """What all shares of a directory are served by. *look_anew* is called before policies are read, *control* makes the
    control socket (raises ListenError); *warm*: so many shares keep a worker for a client that has not come.
    Prometheus is told on *metrics*.
    """

    directory: Path
    ground: Ground
    look_anew: Callable[[], None]
    control: Callable[[], Listener]
    warm: int
    refusals: tuple[type[Exception], ...]
    budgets: Path | None = None
    metrics: MetricsAddress | None = None


async def run_fleet(
    fleeting: Fleeting,
    launching: Launching[Z],
    *,
    sink: Sink,
    timing: Timing,
    notifier: Notifier,
    passed: PassedSockets,
    recent: Recent,
) -> bool:
    """Serves all shares of a directory until a signal. False when something was left behind. *recent* has the log for
    whoever asks.

    Raises ListenError when there is no control socket to be had, since another supervisor has it or it cannot be made;
    PolicyError and WideningError when the directory as a whole cannot be read.
    """
    fleet: Fleet | None = None
    manager = Manager(notifier, lambda: "starting" if fleet is None else fleet.summary)

    def tell(event: Event) -> None:
        sink(event)
        manager.noticed()

    zygotes = Zygotes(ALL, launching, tell)
    with contextlib.ExitStack() as stack:
        stack.callback(zygotes.close)
        control = fleeting.control()
        tallies = Tallies(tell)
        denials = stack.enter_context(Denials(tallies.show))
        wishes = stack.enter_context(Wishes(reloads=True))
        common = Common(
            zygotes,
            denials,
            tell,
            timing,
            fleeting.budgets or group_directory(),
            fleeting.refusals,
            Spares(fleeting.warm),
            tallies,
        )
        fleet = Fleet(
            fleeting.directory, common, fleeting.ground, look_anew=fleeting.look_anew, stop=wishes.ask_to_stop
        )
        asked = ControlSocket(ALL, control, Routing(fleet, recent), tell)
        scraped = _answer_scrapes(fleeting.metrics, fleet, tell)
        wait = asyncio.ensure_future(wishes.stop())
        clean = True
        try:
            with manager:
                if await done_before(fleet.start(), wait):
                    for one in passed.unclaimed(fleet.policies):
                        tell(SocketUnclaimed(ALL, one.name, one.address))
                    manager.ready()
                    footprint.settle()
                    await reload_until(wait, wishes, lambda: _reload_all(fleet, manager))
            sink(Stopping(ALL, wait.result(), timing.stop_grace))
        finally:
            notifier.stopping()
            wait.cancel()
            clean = await stop_all(fleet, wishes, timing.stop_grace)
            recent.end()
            await asked.close()
            if scraped is not None:
                await scraped.close()
    sink(Stopped(ALL))
    return clean


def _answer_scrapes(metrics: MetricsAddress | None, fleet: Fleet, sink: Sink) -> Responder | None:
    if metrics is None:
        return None
    return answer_scrapes(metrics, lambda: tuple(fleet.shares.values()), ALL, sink, absent=lambda: fleet.absent)


async def _reload_all(fleet: Fleet, manager: Manager) -> None:
    manager.reloading()
    # Told by its events.
    with contextlib.suppress(RequestError):
        await fleet.reload()
    manager.ready()
