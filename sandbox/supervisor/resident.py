"""The resident process: from a plan and a zygote to a share in service, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtiofs_sandbox.confine import CannotConfineError, LaunchPlan
from virtiofs_sandbox.policies.places import group_directory
from virtiofs_sandbox.policies.share import Share, ShareError
from virtiofs_sandbox.policies.values import MetricsAddress
from virtiofs_sandbox.supervisor.active import ActiveShare, Common
from virtiofs_sandbox.supervisor.control import ControlSocket
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import (
    NoControlSocket,
    Sink,
    Stopped,
    Stopping,
)
from virtiofs_sandbox.supervisor.listener import Listener, ListenError
from virtiofs_sandbox.supervisor.metrics.responder import Responder
from virtiofs_sandbox.supervisor.metrics.service import tell
from virtiofs_sandbox.supervisor.reloader import Reload, Reloader
from virtiofs_sandbox.supervisor.routing import Routing
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.tallies import Tallies
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Launching, Z, Zygotes

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Control:
    """How a share is asked: *listen* makes its control socket (raises ListenError), *policy* is the file it goes by."""

    listen: Callable[[], Listener]
    policy: Path | None


class _Signals:
    """What is asked of the process, as something to wait for.

    SIGHUP is a reload where there is something to reload, and else stops like SIGTERM and SIGINT, unless nohup(1)
    switched it off.
    """

    def __init__(self, *, reloads: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stops: asyncio.Queue[signal.Signals] = asyncio.Queue()
        self._reload = asyncio.Event()
        self._reloads = reloads

    def __enter__(self) -> _Signals:
        for number in _STOP_SIGNALS if self._reloads else (*_STOP_SIGNALS, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._stops.put_nowait, number)
        if self._reloads:
            self._loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            self._loop.remove_signal_handler(number)

    async def stop(self) -> signal.Signals:
        return await self._stops.get()

    async def reload(self) -> None:
        """Several that came since the last one are one."""
        await self._reload.wait()
        self._reload.clear()


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
    metrics: MetricsAddress | None = None,
) -> bool:
    """Serves *share* until a signal. False when something was left behind.

    Its control groups are there before its first jail and gone after its last. *listen* is called once a worker is
    warm. *reload* is called on SIGHUP, from then on, and when asked for by way of *control*; what it raises refuses the
    reload, and is a fault of ours unless it is one of *refusals*. Without *spares* one worker is kept warm.
    Prometheus is told on *metrics*. Raises StartError, ListenError.
    """
    tallies = Tallies(sink)
    sink = tallies.show
    zygotes = Zygotes(share.name, launching, sink)
    denials = Denials(sink)
    spares = Spares(1) if spares is None else spares
    common = Common(zygotes, denials, sink, timing, budgets or group_directory(), refusals, spares, tallies)
    active = ActiveShare(share, plan, common, reload=reload, policy=None if control is None else control.policy)
    asked: ControlSocket | None = None
    told: Responder | None = None
    with denials, _Signals(reloads=reload is not None) as signals:
        wait = asyncio.ensure_future(signals.stop())
        clean = True
        try:
            if await _started(active, wait):
                listener = listen()
                # There before the line that says ready.
                asked = None if control is None else _control_socket(control, active, sink)
                told = None if metrics is None else tell(metrics, {active.name: active}, active.name, sink)
                active.listen(listener)
                await _reload_until(wait, signals, active.reloader)
            sink(Stopping(share.name, wait.result().name, timing.stop_grace))
        finally:
            wait.cancel()
            clean = await _stop(active, signals, timing.stop_grace)
            for socket in (asked, told):
                if socket is not None:
                    await socket.close()
            zygotes.close()
    sink(Stopped(share.name))
    return clean


def _control_socket(control: Control, active: ActiveShare, sink: Sink) -> ControlSocket | None:
    """None, and a warning, where it cannot be made: the share is served all the same."""
    try:
        listener = control.listen()
    except ListenError as error:
        sink(NoControlSocket(active.name, str(error)))
        return None
    return ControlSocket(active.name, listener, Routing({active.name: active}), sink)


async def _reload_until(stop: asyncio.Future[signal.Signals], signals: _Signals, reloader: Reloader) -> None:
    while not stop.done():
        asked = asyncio.ensure_future(signals.reload())
        waiting: set[asyncio.Future[Any]] = {asked, stop}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            asked.cancel()
            return
        await reloader.reload()


async def _started(active: ActiveShare, stop: asyncio.Future[signal.Signals]) -> bool:
    """Whether a worker is warm; False when *stop* came first."""
    start = asyncio.ensure_future(active.start())
    waiting: set[asyncio.Future[Any]] = {start, stop}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        return False
    start.result()
    return not stop.done()


async def _stop(active: ActiveShare, signals: _Signals, grace: float) -> bool:
    stopping = asyncio.ensure_future(active.stop(grace))
    second = asyncio.ensure_future(signals.stop())
    waiting: set[asyncio.Future[Any]] = {stopping, second}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        active.kill("a second signal")
    second.cancel()
    return await stopping
