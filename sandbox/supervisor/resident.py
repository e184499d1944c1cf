"""The resident process of `run`: from a plan and a zygote to a share in service, until a signal ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtiofs_sandbox.confine import CannotConfineError, LaunchPlan
from virtiofs_sandbox.ipc.requests import Done, Reloaded, RequestError, Standing, fitting, words
from virtiofs_sandbox.policies.places import group_directory
from virtiofs_sandbox.policies.share import Share, ShareError
from virtiofs_sandbox.policies.values import MetricsAddress
from virtiofs_sandbox.supervisor import footprint
from virtiofs_sandbox.supervisor.active import ActiveShare, Common
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.control import ControlSocket
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.departure import Departure
from virtiofs_sandbox.supervisor.events import (
    Event,
    LastClientLeft,
    NoControlSocket,
    Sink,
    Stopped,
    Stopping,
    Withdrawn,
)
from virtiofs_sandbox.supervisor.informing import Manager
from virtiofs_sandbox.supervisor.listener import Listener, ListenError
from virtiofs_sandbox.supervisor.metrics.responder import Responder
from virtiofs_sandbox.supervisor.metrics.service import answer_scrapes
from virtiofs_sandbox.supervisor.notify import Notifier
from virtiofs_sandbox.supervisor.recent import Recent
from virtiofs_sandbox.supervisor.reloader import Reload
from virtiofs_sandbox.supervisor.routing import Household, Routing
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.tallies import Tallies
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.wishes import Wishes, done_before, reload_until, stop_all
from virtiofs_sandbox.supervisor.zygotes import Launching, Z, Zygotes


@dataclass(frozen=True)
class Control:
    """How a share is asked: *listen* makes its control socket (raises ListenError), *policy* is the file it goes by."""

    listen: Callable[[], Listener]
    policy: Path | None


async def run_share(
    share: Share,
    plan: LaunchPlan,
    launching: Launching[Z],
    *,
    listen: Callable[[], Listener],
    sink: Sink,
    timing: Timing,
    reload: Reload | None = None,
    refusals: tuple[type[Exception], ...] = (ShareError, CannotConfineError),
    control: Control | None = None,
    budgets: Path | None = None,
    spares: Spares | None = None,
    once: Callable[[Departure], None] | None = None,
    follow_cgroup: bool = False,
    recent: Recent | None = None,
    notifier: Notifier | None = None,
    metrics: MetricsAddress | None = None,
) -> bool:
    """Serves *share* until a signal, or *once*, until the first client has left, and tells how it went. False when
    something was left behind.

    Its control groups are there before its first jail and gone after its last. *listen* is called once a worker is
    warm. *reload* is called on SIGHUP, from then on, and when asked for by way of *control*; what it raises refuses the
    reload, and is a fault of ours unless it is one of *refusals*. Without *spares* one worker is kept warm. *recent*
    has the log for whoever asks, *notifier* tells a service manager, Prometheus is told on *metrics*. Raises
    StartError, ListenError.
    """
    recent = recent or Recent()
    notifier = notifier or Notifier(None)
    manager = Manager(notifier, lambda: f"share {share.name} in service, {len(active.service.clients)} clients")

    def tell(event: Event) -> None:
        sink(event)
        manager.noticed()

    tallies = Tallies(tell)
    zygotes = Zygotes(share.name, launching, tell)
    denials = Denials(tallies.show)
    spares = Spares(1) if spares is None else spares
    common = Common(zygotes, denials, tell, timing, budgets or group_directory(), refusals, spares, tallies)
    active = ActiveShare(
        share,
        plan,
        common,
        reload=reload,
        policy=None if control is None else control.policy,
        follow_cgroup=follow_cgroup,
    )
    asked: ControlSocket | None = None
    scraped: Responder | None = None
    with denials, Wishes(reloads=reload is not None) as wishes:
        wait = asyncio.ensure_future(_end(wishes, active, once))
        clean = True
        try:
            with manager:
                if await done_before(active.start(), wait):
                    listener = listen()
                    # There before the line that says ready.
                    asked = None if control is None else _control_socket(control, active, wishes, tell, recent)
                    if metrics is not None:
                        scraped = answer_scrapes(metrics, lambda: (active,), share.name, tell)
                    active.listen(listener)
                    manager.ready()
                    footprint.settle()
                    await reload_until(wait, wishes, lambda: _reload(active, manager))
            sink(_farewell(share.name, wait.result(), timing))
        finally:
            notifier.stopping()
            wait.cancel()
            clean = await stop_all(active, wishes, timing.stop_grace)
            recent.end()
            for socket in (asked, scraped):
                if socket is not None:
                    await socket.close()
            zygotes.close()
    sink(Stopped(share.name))
    return clean


class _Lodger:
    """The one share of a `run`, as questions know it."""

    def __init__(self, active: ActiveShare, wishes: Wishes, sink: Sink) -> None:
        self._active = active
        self._wishes = wishes
        self._sink = sink
        self._leaving: asyncio.Task[None] | None = None

    @property
    def shares(self) -> Mapping[str, ActiveShare]:
        return {self._active.name: self._active}

    def standings(self) -> Mapping[str, Standing]:
        return {self._active.name: self._active.answers.standing()}

    async def reload(self, name: str | None, *, now: bool) -> Reloaded:
        self._check(name)
        outcome = await self._active.reloader.reload(now=now)
        if isinstance(outcome, str):
            raise RequestError("refused", f"{outcome}; everything stays as it was")
        return Reloaded(
            changes=fitting([words(change) for change in outcome.changes]),
            later=fitting([words(change) for change in outcome.later]),
            warnings=fitting([words(warning) for warning in outcome.warnings]),
        )

    async def restart(self, name: str, *, now: bool) -> Done:
        self._check(name)
        self._active.service.renew(now=now)
        stay = () if now else self._active.service.clients
        return Done(
            changes=("whoever connects from now on gets a new worker",),
            later=tuple(f"{client} keeps its worker until it leaves" for client in stay),
        )

    async def stop_share(self, name: str, *, now: bool, by: Peer) -> Done:
        self._check(name)
        clients = self._active.service.clients
        if now or not clients:
            self.stop_all(by)
            return Done(changes=("stopping",))
        if self._leaving is None:
            self._active.service.withdraw()
            self._sink(Withdrawn(name, f"stopped by {by}", clients))
            self._leaving = asyncio.ensure_future(self._stop_when_vacated(by))
        return Done(
            changes=("accepts nobody any more",), later=tuple(f"stops when {client} has left" for client in clients)
        )

    def stop_all(self, by: Peer) -> None:
        self._wishes.ask_to_stop(f"a request of {by}")

    def _check(self, name: str | None) -> None:
        if name not in (None, self._active.name):
            raise RequestError("unknown-share", f"no share called {name!r} is known here")
        if self._active.service.stopping:
            raise RequestError("stopping", f"share {self._active.name} is being stopped")

    async def _stop_when_vacated(self, by: Peer) -> None:
        await self._active.service.vacated()
        self.stop_all(by)


async def _reload(active: ActiveShare, manager: Manager) -> None:
    manager.reloading()
    await active.reloader.reload()
    manager.ready()


async def _end(wishes: Wishes, active: ActiveShare, once: Callable[[Departure], None] | None) -> str | Departure:
    """What ends the service."""
    stop = asyncio.ensure_future(wishes.stop())
    if once is None:
        return await stop
    left = asyncio.ensure_future(_left(active))
    waiting: set[asyncio.Future[Any]] = {stop, left}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
    if stop.done() and not stop.cancelled():
        return stop.result()
    once(left.result())
    return left.result()


async def _left(active: ActiveShare) -> Departure:
    """How the first client went, once the others have gone too that came beside it."""
    departure = await active.service.departure()
    if active.service.clients:
        active.service.withdraw()
        await active.service.vacated()
    return departure


def _farewell(share: str, end: str | Departure, timing: Timing) -> Event:
    if isinstance(end, Departure):
        return LastClientLeft(share, end.reason)
    return Stopping(share, end, timing.stop_grace)


def _control_socket(
    control: Control, active: ActiveShare, wishes: Wishes, sink: Sink, recent: Recent
) -> ControlSocket | None:
    """None, and a warning, where it cannot be made: the share is served all the same."""
    try:
        listener = control.listen()
    except ListenError as error:
        sink(NoControlSocket(active.name, str(error)))
        return None
    lodger: Household = _Lodger(active, wishes, sink)
    return ControlSocket(active.name, listener, Routing(lodger, recent), sink)
