"""The resident process: from a zygote to shares in service, one or all of a directory, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from virtiofs_sandbox.confine import CannotConfineError, LaunchPlan
from virtiofs_sandbox.ipc.requests import Done, Reloaded, RequestError, Standing, fitting, words
from virtiofs_sandbox.policies.places import group_directory
from virtiofs_sandbox.policies.share import Share, ShareError
from virtiofs_sandbox.policies.values import MetricsAddress
from virtiofs_sandbox.supervisor.activation import PassedSockets
from virtiofs_sandbox.supervisor.active import ActiveShare, Common
from virtiofs_sandbox.supervisor.berth import Ground
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.control import ControlSocket
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import (
    Event,
    LastClientLeft,
    NoControlSocket,
    Sink,
    SocketUnclaimed,
    Stopped,
    Stopping,
    Withdrawn,
)
from virtiofs_sandbox.supervisor.fleet import ALL, Fleet
from virtiofs_sandbox.supervisor.listener import Listener, ListenError
from virtiofs_sandbox.supervisor.metrics.responder import Responder
from virtiofs_sandbox.supervisor.metrics.service import answer_scrapes
from virtiofs_sandbox.supervisor.notify import Notifier
from virtiofs_sandbox.supervisor.recent import Recent
from virtiofs_sandbox.supervisor.reloader import Reload
from virtiofs_sandbox.supervisor.routing import Household, Routing
from virtiofs_sandbox.supervisor.service import Departure
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.tallies import Tallies
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Launching, Z, Zygotes

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The manager is told how many clients there are, but not of each that comes and goes.
_STATUS_SECONDS = 1.0


@dataclass(frozen=True)
class Control:
    """How a share is asked: *listen* makes its control socket (raises ListenError), *policy* is the file it goes by."""

    listen: Callable[[], Listener]
    policy: Path | None


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


class _Wishes:
    """What is asked of the process, by signals and by requests, as something to wait for.

    SIGHUP is a reload where there is something to reload, and else stops like SIGTERM and SIGINT, unless nohup(1)
    switched it off.
    """

    def __init__(self, *, reloads: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stops: asyncio.Queue[str] = asyncio.Queue()
        self._reload = asyncio.Event()
        self._reloads = reloads

    def __enter__(self) -> _Wishes:
        for number in _STOP_SIGNALS if self._reloads else (*_STOP_SIGNALS, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self.ask_to_stop, number.name)
        if self._reloads:
            self._loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            self._loop.remove_signal_handler(number)

    def ask_to_stop(self, reason: str) -> None:
        self._stops.put_nowait(reason)

    async def stop(self) -> str:
        """The reason."""
        return await self._stops.get()

    async def reload(self) -> None:
        """Several that came since the last one are one."""
        await self._reload.wait()
        self._reload.clear()


class _Stoppable(Protocol):
    async def stop(self, grace: float) -> bool: ...
    def kill(self, reason: str) -> None: ...


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
    manager = _Manager(notifier, lambda: f"share {share.name} in service, {len(active.service.clients)} clients")
    tallies = Tallies(sink)

    def tell(event: Event) -> None:
        tallies.show(event)
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
    told: Responder | None = None
    with denials, _Wishes(reloads=reload is not None) as wishes:
        wait = asyncio.ensure_future(_end(wishes, active, once))
        clean = True
        try:
            with manager:
                if await _done_before(active.start(), wait):
                    listener = listen()
                    # There before the line that says ready.
                    asked = None if control is None else _control_socket(control, active, wishes, tell, recent)
                    if metrics is not None:
                        told = answer_scrapes(metrics, lambda: (active,), share.name, tell)
                    active.listen(listener)
                    manager.ready()
                    await _reload_until(wait, wishes, lambda: _reload(active, manager))
            sink(_farewell(share.name, wait.result(), timing))
        finally:
            notifier.stopping()
            wait.cancel()
            clean = await _stop(active, wishes, timing.stop_grace)
            recent.end()
            for socket in (asked, told):
                if socket is not None:
                    await socket.close()
            zygotes.close()
    sink(Stopped(share.name))
    return clean


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
    manager = _Manager(notifier, lambda: "starting" if fleet is None else fleet.summary)

    tallies = Tallies(sink)

    def tell(event: Event) -> None:
        tallies.show(event)
        manager.noticed()

    zygotes = Zygotes(ALL, launching, tell)
    with contextlib.ExitStack() as stack:
        stack.callback(zygotes.close)
        control = fleeting.control()
        tallies = Tallies(tell)
        denials = stack.enter_context(Denials(tallies.show))
        wishes = stack.enter_context(_Wishes(reloads=True))
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
        told = _answer_scrapes(fleeting.metrics, fleet, tell)
        wait = asyncio.ensure_future(wishes.stop())
        clean = True
        try:
            with manager:
                if await _done_before(fleet.start(), wait):
                    for one in passed.unclaimed(fleet.places):
                        tell(SocketUnclaimed(ALL, one.name, one.address))
                    manager.ready()
                    await _reload_until(wait, wishes, lambda: _reload_all(fleet, manager))
            sink(Stopping(ALL, wait.result(), timing.stop_grace))
        finally:
            notifier.stopping()
            wait.cancel()
            clean = await _stop(fleet, wishes, timing.stop_grace)
            recent.end()
            await asked.close()
            if told is not None:
                await told.close()
    sink(Stopped(ALL))
    return clean


def _answer_scrapes(metrics: MetricsAddress | None, fleet: Fleet, sink: Sink) -> Responder | None:
    if metrics is None:
        return None
    return answer_scrapes(metrics, lambda: tuple(fleet.shares.values()), ALL, sink, absent=lambda: fleet.absent)


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


async def _reload(active: ActiveShare, manager: _Manager) -> None:
    manager.reloading()
    await active.reloader.reload()
    manager.ready()


async def _reload_all(fleet: Fleet, manager: _Manager) -> None:
    manager.reloading()
    # Told by its events.
    with contextlib.suppress(RequestError):
        await fleet.reload()
    manager.ready()


class _Lodger:
    """The one share of a `run`, as questions know it."""

    def __init__(self, active: ActiveShare, wishes: _Wishes, sink: Sink) -> None:
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


async def _end(wishes: _Wishes, active: ActiveShare, once: Callable[[Departure], None] | None) -> str | Departure:
    """What ends the service."""
    stop = asyncio.ensure_future(wishes.stop())
    if once is None:
        return await stop
    left = asyncio.ensure_future(active.service.departure())
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


def _farewell(share: str, end: str | Departure, timing: Timing) -> Event:
    if isinstance(end, Departure):
        return LastClientLeft(share, end.reason)
    return Stopping(share, end, timing.stop_grace)


def _control_socket(
    control: Control, active: ActiveShare, wishes: _Wishes, sink: Sink, recent: Recent
) -> ControlSocket | None:
    """None, and a warning, where it cannot be made: the share is served all the same."""
    try:
        listener = control.listen()
    except ListenError as error:
        sink(NoControlSocket(active.name, str(error)))
        return None
    lodger: Household = _Lodger(active, wishes, sink)
    return ControlSocket(active.name, listener, Routing(lodger, recent), sink)


async def _reload_until(
    stop: asyncio.Future[Any], wishes: _Wishes, reload: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    while not stop.done():
        if await _done_before(wishes.reload(), stop):
            await _done_before(reload(), stop)


async def _done_before(work: Coroutine[Any, Any, object], stop: asyncio.Future[Any]) -> bool:
    """Whether *work* is done; False when *stop* came first. Raises what *work* raises."""
    task = asyncio.ensure_future(work)
    waiting: set[asyncio.Future[Any]] = {task, stop}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return False
    task.result()
    return not stop.done()


async def _stop(shares: _Stoppable, wishes: _Wishes, grace: float) -> bool:
    stopping = asyncio.ensure_future(shares.stop(grace))
    second = asyncio.ensure_future(wishes.stop())
    waiting: set[asyncio.Future[Any]] = {stopping, second}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        shares.kill("a second signal")
    second.cancel()
    return await stopping
