"""The resident process: from a plan and a zygote to a share in service, until a signal ends it."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Callable
from typing import Any

from virtiofs_sandbox.cgroups import hierarchies
from virtiofs_sandbox.cgroups.groups import Groups, sweep
from virtiofs_sandbox.cgroups.planning import CannotLimitError, bases
from virtiofs_sandbox.confine import CannotConfineError, LaunchPlan
from virtiofs_sandbox.policies.share import Share, ShareError
from virtiofs_sandbox.supervisor.changes import changes, refusal
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import (
    GroupsLeft,
    HostLacks,
    LimitNotHeld,
    Reloaded,
    ReloadRefused,
    Sink,
    Stopped,
    Stopping,
)
from virtiofs_sandbox.supervisor.listener import Listener
from virtiofs_sandbox.supervisor.service import Service, StartError
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.worker import Terms, Worker, launch_worker
from virtiofs_sandbox.supervisor.zygotes import Launching, Z, Zygotes

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
Reload = Callable[[], tuple[Share, LaunchPlan]]
"""Reads the policy again. Runs inside the event loop, between two steps of it: a thread would bar the forking of a
zygote, and the guests' data does not pass here."""


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
) -> bool:
    """Serves *share* until a signal. False when something was left behind.

    Its control groups are there before its first jail and gone after its last. *listen* is called once a worker is
    warm. *reload* is called on SIGHUP, from then on; what it raises refuses the reload, and is a fault of ours unless
    it is one of *refusals*. Raises StartError, ListenError.
    """
    for warning in plan.warnings:
        sink(HostLacks(share.name, warning))
    zygotes = Zygotes(share.name, launching, sink)
    groups = Groups(share.name, lambda sentence: sink(LimitNotHeld(share.name, sentence)))
    sweep(bases(hierarchies.find(), share.control.parent))
    try:
        groups.apply(plan.groups)
    except CannotLimitError as error:
        zygotes.close()
        await groups.close()
        raise StartError(str(error)) from error
    denials = Denials(sink)

    async def launch(generation: int, terms: Terms) -> Worker:
        joined = groups.joined
        plan = dataclasses.replace(terms.plan, cgroups=joined)
        worker = await launch_worker(Terms(terms.share, plan), generation, zygotes)
        if joined != groups.joined:
            # A reload came between.
            groups.enter(worker.pid)
        denials.launched(share.name, generation, worker.pid)
        return worker

    service = Service(Terms(share, plan), launch, denials.show, timing)
    with denials, _Signals(reloads=reload is not None) as signals:
        wait = asyncio.ensure_future(signals.stop())
        clean = True
        try:
            if await _started(service, wait):
                service.listen(listen())
                await _reload_until(wait, signals, Reloader(service, groups, reload, refusals, sink))
            sink(Stopping(share.name, wait.result().name, timing.stop_grace))
        finally:
            wait.cancel()
            clean = await _stop(service, signals, timing.stop_grace)
            zygotes.close()
            if left := await groups.close():
                clean = False
                sink(GroupsLeft(share.name, left))
    sink(Stopped(share.name))
    return clean


class Reloader:
    """Reads the policy again and hands it to the service, or says why everything stays as it was."""

    def __init__(
        self,
        service: Service,
        groups: Groups,
        read: Reload | None,
        refusals: tuple[type[Exception], ...],
        sink: Sink,
    ) -> None:
        self._service = service
        self._groups = groups
        self._read = read
        self._refusals = refusals
        self._sink = sink

    async def reload(self) -> None:
        """Never raises: a fault in here must not end a share in service."""
        attempt = asyncio.ensure_future(self._attempt())
        await asyncio.wait({attempt})
        error = attempt.exception()
        if error is not None:
            expected = isinstance(error, self._refusals)
            reason = str(error) if expected else f"fault in the supervisor: {error!r}"
            self._sink(ReloadRefused(self._service.terms.share.name, reason))

    async def _attempt(self) -> None:
        if self._read is None:
            return
        old = self._service.terms
        new = Terms(*self._read())
        if sentence := refusal(old.share, new.share):
            self._sink(ReloadRefused(old.share.name, sentence))
            return
        found = tuple(change.words for change in changes(old.share, new.share))
        self._groups.apply(new.plan.groups, self._service.keepers)
        self._sink(Reloaded(old.share.name, found, new.share.log_level))
        for warning in new.plan.warnings:
            if warning not in old.plan.warnings:
                self._sink(HostLacks(old.share.name, warning))
        self._service.take_over(new)


async def _reload_until(stop: asyncio.Future[signal.Signals], signals: _Signals, reloader: Reloader) -> None:
    while not stop.done():
        asked = asyncio.ensure_future(signals.reload())
        waiting: set[asyncio.Future[Any]] = {asked, stop}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            asked.cancel()
            return
        await reloader.reload()


async def _started(service: Service, stop: asyncio.Future[signal.Signals]) -> bool:
    """Whether a worker is warm; False when *stop* came first."""
    start = asyncio.ensure_future(service.start())
    waiting: set[asyncio.Future[Any]] = {start, stop}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        return False
    start.result()
    return not stop.done()


async def _stop(service: Service, signals: _Signals, grace: float) -> bool:
    stopping = asyncio.ensure_future(service.stop(grace))
    second = asyncio.ensure_future(signals.stop())
    waiting: set[asyncio.Future[Any]] = {stopping, second}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        service.kill("a second signal")
    second.cancel()
    return await stopping
